-- Forget what was kept long enough: index, state, record and log together.
-- KEYS[1] the queue's list
-- ARGV[1] at most so many; then for each index: its name, ms kept, number kept
-- returns how many were forgotten.
local left = tonumber(ARGV[1])
for i = 2, #ARGV, 3 do
  local index = base .. ':' .. ARGV[i]
  local old = redis.call('ZRANGEBYSCORE', index, '-inf', at - tonumber(ARGV[i + 1]), 'LIMIT', 0, left)
  local surplus = math.min(redis.call('ZCARD', index) - tonumber(ARGV[i + 2]), left)
  if surplus > #old then old = redis.call('ZRANGE', index, 0, surplus - 1) end
  for _, id in ipairs(old) do
    redis.call('ZREM', index, id)
    redis.call('HDEL', base .. ':state', id)
    drop_record(id)
    redis.call('UNLINK', base .. ':log:' .. id)
  end
  left = left - #old
end
return tonumber(ARGV[1]) - left
