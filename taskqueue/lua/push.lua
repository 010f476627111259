-- Store tasks and queue them, all or none.
-- KEYS[1] the queue's list
-- ARGV as in _admit.lua
-- returns 'OK', or as in _admit.lua
for i = 4, #ARGV, VALUES do
  local id, task = admit(i)
  if id then enqueue(id, task) end
end
redis.call('PUBLISH', base, '')
return 'OK'
