-- Store tasks without queueing them, all or none: the vote of a two-phase commit.
-- KEYS[1] the queue's list
-- ARGV as in _admit.lua
-- returns 'OK', or as in _admit.lua
for i = 4, #ARGV, 7 do
  local id, task = store(i)
  if id then
    redis.call('ZADD', base .. ':prepared', at, id)
    save(id, task, 'prepared')
  end
end
return 'OK'
