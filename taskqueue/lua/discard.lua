-- Forget what was prepared: the transaction was aborted.
-- KEYS[1] the queue's list
-- ARGV ids
-- returns how many were forgotten; what is not prepared (any more) is left alone, unless it was set aside as in-doubt:
-- then this is what decides it.
local forgotten = 0
for _, id in ipairs(ARGV) do
  local task = load(id)
  local doubtful = task and task[STATE] == 'failed' and task[REASON] == 'in-doubt'
  if doubtful or (task and task[STATE] == 'prepared') then
    if doubtful then open_child(task, 1) end
    gather(leaving, 'ZREM', base .. (doubtful and ':failed' or ':prepared'), id)
    forget(id)
    flush()
    redis.call('UNLINK', base .. ':log:' .. id)
    tell_parent(task, 'cancelled')
    flush()
    forgotten = forgotten + 1
  end
end
return forgotten
