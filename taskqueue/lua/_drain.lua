-- Stands before every script that takes tasks out: with a full memory Redis refuses a script whose first write could
-- need more, and then a full queue could never be drained. This write needs none, and changes nothing.
redis.call('HDEL', base .. ':control', '')

local function drop_record(id)
  local size = redis.call('HSTRLEN', base .. ':records', id)
  if redis.call('HDEL', base .. ':records', id) == 0 then return end
  local left = redis.call('HINCRBY', base .. ':control', 'bytes', 0 - size)
  if left <= 0 then redis.call('HDEL', base .. ':control', 'bytes') end
end

-- Out of the way, but not forgotten: what a queue may hold is a matter of what is still to run.
local function log_record(id)
  local record = redis.call('HGET', base .. ':records', id)
  if record then redis.call('HSET', base .. ':log:' .. id, 'record', record) end
  drop_record(id)
end

-- Removes all that is known of a task, except from the index or the line that it is in.
local function forget(id)
  local task = load(id)
  for _, by in ipairs(task and BY or {}) do
    if task[by[2]] ~= '' then redis.call('ZREM', base .. by[1] .. task[by[2]], id) end
  end
  drop_record(id)
  redis.call('HDEL', base .. ':state', id)
  redis.call('UNLINK', base .. ':log:' .. id)
  known[id] = false
end
