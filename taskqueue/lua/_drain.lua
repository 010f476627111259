-- Stands before every script that takes tasks out: with a full memory Redis refuses a script whose first write could
-- need more, and then a full queue could never be drained. This write needs none, and changes nothing.
redis.call('HDEL', CONTROL, '')

local function drop_record(id)
  if dropped[id] then return end
  local size = redis.call('HSTRLEN', RECORDS, id)
  if size == 0 and redis.call('HEXISTS', RECORDS, id) == 0 then return end
  -- The counter is no more when nothing is left of it.
  if weigh(0 - size) <= 0 then weight, counted = 0, 'HDEL' end
  gather(leaving, 'HDEL', RECORDS, id)
  dropped[id] = true
end

-- Out of the way, but not forgotten: what a queue may hold is a matter of what is still to run.
local function log_record(id)
  local record = not dropped[id] and redis.call('HGET', RECORDS, id)
  if record then redis.call('HSET', base .. ':log:' .. id, 'record', record) end
  drop_record(id)
end

-- Removes all that is known of a task, except its log, and the index or the line that it is in.
local function forget(id)
  local task = load(id)
  for _, by in ipairs(task and BY or {}) do
    if task[by[2]] ~= '' then gather(leaving, 'ZREM', base .. by[1] .. task[by[2]], id) end
  end
  drop_record(id)
  gather(leaving, 'HDEL', STATES, id)
  known[id] = false
end
