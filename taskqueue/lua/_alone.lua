-- Stands in push, with _late, before the parts that all have in common: takes a task that comes alone, as most do, in half
-- the time that they need. It does what they would do, but for one thing: a consumer that waits may be handed the task.
-- What is not as simple is left to them: several tasks, a time to wait for, a parent, and whatever is refused.
-- ARGV as for one commit in _together.lua
local ALONE, CHILD = 15, 1

-- Returns the bytes of all records with this one, and what holds tasks back, if this one may be stored.
local function admitted()
  if #ARGV ~= ALONE or ARGV[7] ~= '0' or ARGV[15] % 2 == CHILD or at > tonumber(ARGV[1]) then return end
  if redis.call('HEXISTS', STATES, ARGV[5]) == 1 then return end
  local control = redis.call('HMGET', CONTROL, 'bytes', 'closed', 'slowed', 'paused', 'disabled', 'limit')
  local most, heaviest, weight = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(control[1] or 0) + #ARGV[6]
  if control[2] or heaviest > 0 and weight > heaviest then return end
  local held = redis.call('HLEN', RECORDS) - redis.call('ZCARD', base .. ':failed')
  if most > 0 and held >= most then return end
  return weight, at < tonumber(control[3] or 0) or control[4] or control[5] or control[6]
end

local all, held_back = admitted()
if all then
  redis.call('HSET', RECORDS, ARGV[5], ARGV[6])
  redis.call('HSET', CONTROL, 'bytes', all)
  for place, by in ipairs({':by:owner:', ':by:route:'}) do
    if ARGV[11 + place] ~= '' then redis.call('ZADD', base .. by .. ARGV[11 + place], at, ARGV[5]) end
  end
  if ARGV[10] ~= '' then redis.call('ZADD', base .. ':by:label:' .. ARGV[10], at, ARGV[5]) end
  local first = not held_back and waiting()
  if first then hand_over(first) else queue(0, 0, '') end
  return {'OK'}
end
