-- Forget what was kept long enough: index, state, record and log together.
-- KEYS[1] the queue's list
-- ARGV[1] at most so many; then for each index: its name, ms kept, number kept
-- returns {how many were forgotten, ids of those that have files ...}.
local left, reply = tonumber(ARGV[1]), {0}

local function trim(index, old)
  look(old)
  local logs = {}
  for i, id in ipairs(old) do logs[i] = base .. ':log:' .. id end
  local logged = redis.call('EXISTS', unpack(logs)) > 0
  for i, id in ipairs(old) do
    local task = load(id)
    if task and is(task, GHOST) then
      -- Its id is still in a line, and must not be taken for somebody else's: it is looked at again later.
      gather(arriving, 'ZADD', index, at, id)
    else
      if logged and redis.call('HEXISTS', logs[i], 'files') + redis.call('HEXISTS', logs[i], 'response_file') > 0 then
        table.insert(reply, id)
      end
      gather(leaving, 'ZREM', index, id)
      forget(id)
      if logged then redis.call('UNLINK', logs[i]) end
      reply[1] = reply[1] + 1
    end
  end
  flush()
end
for i = 2, #ARGV, 3 do
  local index = base .. ':' .. ARGV[i]
  local held = redis.call('ZCARD', index)
  if held > 0 then
    local old = redis.call('ZRANGEBYSCORE', index, '-inf', at - tonumber(ARGV[i + 1]), 'LIMIT', 0, left)
    local surplus = math.min(held - tonumber(ARGV[i + 2]), left)
    if surplus > #old then old = redis.call('ZRANGE', index, 0, surplus - 1) end
    if #old > 0 then trim(index, old) end
    left = left - #old
  end
end
return reply
