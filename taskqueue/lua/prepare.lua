-- Store tasks without queueing them: the vote of a two-phase commit.
-- KEYS, ARGV and returns as in push.lua
if at > tonumber(ARGV[1]) and redis.call('HEXISTS', base .. ':state', ARGV[2]) == 0 then return 'LATE' end
for i = 2, #ARGV, 6 do
  local id = ARGV[i]
  if redis.call('HEXISTS', base .. ':state', id) == 0 then
    redis.call('HSET', base .. ':records', id, ARGV[i + 1])
    redis.call('ZADD', base .. ':prepared', at, id)
    save(id, new(tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]), 'prepared')
  end
end
return 'OK'
