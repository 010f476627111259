-- Queue what was prepared, in the order given: the finish of a two-phase commit.
-- KEYS[1] the queue's list
-- ARGV ids
-- returns how many of them are unknown (0 unless somebody emptied the queue in between).
-- Also what was set aside as in-doubt is queued: late, but the transaction has committed.
local unknown = 0
for _, id in ipairs(ARGV) do
  local task = load(id)
  if not task then
    unknown = unknown + 1
  elseif task[STATE] == 'prepared' then
    enqueue(id, task)
    redis.call('ZREM', base .. ':prepared', id)
  elseif task[STATE] == 'failed' and task[REASON] == 'in-doubt' then
    task[REASON] = ''
    enqueue(id, task)
    redis.call('ZREM', base .. ':failed', id)
  end
end
redis.call('PUBLISH', base, '')
return unknown
