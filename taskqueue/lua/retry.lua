-- Queue failed tasks again, at the back of the line, with all their attempts.
-- KEYS[1] the queue's list
-- ARGV for each: id, record to store in place of the old one (re-sealed because it had expired) or ''
-- returns how many were queued; what is not failed, or has no record any more, is left alone.
local queued = 0
for i = 1, #ARGV, 2 do
  local id, record = ARGV[i], ARGV[i + 1]
  local task = load(id)
  if task and task[STATE] == 'failed' and redis.call('HEXISTS', base .. ':records', id) == 1 then
    if record ~= '' then
      local grows = #record - redis.call('HSTRLEN', base .. ':records', id)
      redis.call('HSET', base .. ':records', id, record)
      redis.call('HINCRBY', base .. ':control', 'bytes', grows)
    end
    task[ATTEMPT], task[CRASHES], task[DUE], task[STATUS], task[REASON] = 0, 0, 0, 0, ''
    enqueue(id, task)
    redis.call('ZREM', base .. ':failed', id)
    queued = queued + 1
  end
end
if queued > 0 then redis.call('PUBLISH', base, '') end
return queued
