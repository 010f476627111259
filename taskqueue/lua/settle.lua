-- End deliveries: complete, retry, fail or release.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] ms for which the queue is to be slowed down, [4] '1' to keep the requests of what has
--      completed; then for each, in the order they were reserved: id, delivery, kind, delay ms, status, reason,
--      sealed response ('' for none), and what follows when the task has completed, and when it has failed (see follow)
-- returns {'OK', ids whose delivery this consumer no longer held ...}, or as in _lease.lua.
-- A repeat after a lost reply finds the delivery ended, and changes nothing.
local reply, ids = {'OK'}, {}
local slowed = ARGV[3] ~= '0' and math.max(at + ARGV[3], redis.call('HGET', base .. ':control', 'slowed') or 0)
if slowed then redis.call('HSET', base .. ':control', 'slowed', slowed) end
for i = 5, #ARGV, 9 do table.insert(ids, ARGV[i]) end
look(ids)
-- From last to first, so that what is released stands in front in the order it came.
for i = #ARGV - 8, 5, -9 do
  local id, kind, delay = ARGV[i], ARGV[i + 2], tonumber(ARGV[i + 3])
  local task, response, following = load(id), ARGV[i + 6], {ARGV[i + 7], ARGV[i + 8]}
  local held = task and task[DELIVERY] == tonumber(ARGV[i + 1]) and task[HOLDER] == ARGV[1]
  if held and (task[STATE] == 'reserved' or task[STATE] == 'running') then
    task[STATUS], task[REASON] = tonumber(ARGV[i + 4]), ARGV[i + 5]
    local mark = mark_of(id)
    if mark then
      log_ending(id, task, mark)
      obey(id, task, mark)
    elseif kind == 'complete' then
      complete(id, task, response, following)
    elseif kind == 'release' then
      release(id, task, delay)
    else
      fall(id, task, kind, delay, response, following)
    end
    redis.call('LREM', reserved, -1, id)
  elseif not held then
    table.insert(reply, id)
  end
end
return reply
