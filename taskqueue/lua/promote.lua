-- Queue what was prepared, all or none, in the order given: the finish of a two-phase commit.
-- KEYS[1] the queue's list
-- ARGV ids
-- returns how many of them are unknown (0 unless somebody emptied the queue in between); then none is queued.
-- Also what was set aside as in-doubt is queued: late, but the transaction has committed.
local unknown = 0
look(ARGV)
for _, id in ipairs(ARGV) do
  if not load(id) then unknown = unknown + 1 end
end
if unknown > 0 then return unknown end
for _, id in ipairs(ARGV) do
  local task = load(id)
  if task[STATE] == 'prepared' then
    enqueue(id, task)
    gather(leaving, 'ZREM', base .. ':prepared', id)
  elseif task[STATE] == 'failed' and task[REASON] == 'in-doubt' then
    task[REASON] = ''
    open_child(task, 1)
    enqueue(id, task)
    gather(leaving, 'ZREM', base .. ':failed', id)
  end
end
flush()
redis.call('PUBLISH', base, '')
return 0
