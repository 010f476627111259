-- Stands before the scripts in which a consumer loses what it holds.

local function log_ending(id, task, kind)
  redis.call('HSET', base .. ':log:' .. id, task[DELIVERY], cmsgpack.pack(
    {task[ATTEMPT], task[RESERVED], task[BEGUN], at, task[STATUS], task[REASON], task[HOLDER], kind}))
end

-- What was said of a task under way: 'cancelled' or 'archived'. Whatever it comes to, that is its end.
local marks
local function mark_of(id)
  if marks == nil then marks = redis.call('EXISTS', base .. ':marks') == 1 end
  return marks and redis.call('HGET', base .. ':marks', id)
end

local function obey(id, task, mark)
  conclude(id, task, mark)
  log_record(id)
  gather(leaving, 'HDEL', base .. ':marks', id)
end

-- Keeps in the task's log when it was given back, first and last, how often, and why and by whom the last time.
local function log_release(id, reason, actor)
  local key = base .. ':log:' .. id
  local before = redis.call('HGET', key, 'released')
  local first, _, count = unpack(before and cmsgpack.unpack(before) or {at, at, 0})
  redis.call('HSET', key, 'released', cmsgpack.pack({first, at, count + 1, reason, actor}))
end
