-- Queue failed or cancelled tasks again, at the back of the line, with all their attempts.
-- KEYS[1] the queue's list
-- ARGV[1] who does it; then for each: id, record to store in place of the old one (re-sealed because it had expired) or ''
-- returns how many were queued; what is in another state, or has no record any more, is left alone.
local queued = 0
for i = 2, #ARGV, 2 do
  local id, record, log = ARGV[i], ARGV[i + 1], base .. ':log:' .. ARGV[i]
  local task = load(id)
  local from = task and (task[STATE] == 'failed' or task[STATE] == 'cancelled') and INDEX[task[STATE]]
  local stored = redis.call('HGET', RECORDS, id)
  local kept = stored or redis.call('HGET', log, 'record')
  if from and kept then
    record = record ~= '' and record or kept
    gather(arriving, 'HSET', RECORDS, id, record)
    weigh(#record - #(stored or ''))
    open_child(task, task[STATE] == 'failed' and 1 or 0)
    -- Children that failed in its earlier life are no matter of this one.
    task[ATTEMPT], task[CRASHES], task[DUE], task[STATUS], task[REASON], task[SPOILT] = 0, 0, 0, 0, '', 0
    act(id, 'retried', ARGV[1])
    enqueue(id, task)
    gather(leaving, 'ZREM', base .. from, id)
    gather(leaving, 'HDEL', log, 'record')
    flush()
    queued = queued + 1
  end
end
if queued > 0 then redis.call('PUBLISH', base, '') end
return queued
