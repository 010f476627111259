-- Forget what was kept long enough: index, state, record and log together.
-- KEYS[1] the queue's list
-- ARGV[1] at most so many; then for each index: its name, ms kept, number kept
-- returns {how many were forgotten, ids of those that have files ...}.
local left, reply = tonumber(ARGV[1]), {0}
for i = 2, #ARGV, 3 do
  local index = base .. ':' .. ARGV[i]
  local old = redis.call('ZRANGEBYSCORE', index, '-inf', at - tonumber(ARGV[i + 1]), 'LIMIT', 0, left)
  local surplus = math.min(redis.call('ZCARD', index) - tonumber(ARGV[i + 2]), left)
  if surplus > #old then old = redis.call('ZRANGE', index, 0, surplus - 1) end
  look(old)
  for _, id in ipairs(old) do
    local task = load(id)
    if task and is(task, GHOST) then
      -- Its id is still in a line, and must not be taken for somebody else's: it is looked at again later.
      redis.call('ZADD', index, at, id)
    else
      local log = base .. ':log:' .. id
      if redis.call('HEXISTS', log, 'files') + redis.call('HEXISTS', log, 'response_file') > 0 then
        table.insert(reply, id)
      end
      redis.call('ZREM', index, id)
      forget(id)
      reply[1] = reply[1] + 1
    end
  end
  left = left - #old
end
return reply
