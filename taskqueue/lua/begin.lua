-- Note that a delivery starts to run in the application.
-- KEYS[1] the queue's list
-- ARGV[1] id, [2] delivery, [3] random token of this very start
-- returns 1, or 0 if this delivery has started already or is not the one the task is reserved under.
local task = load(ARGV[1])
if not task or task[DELIVERY] ~= tonumber(ARGV[2]) then return 0 end
if task[STATE] == 'running' then return task[TOKEN] == ARGV[3] and 1 or 0 end
-- What is marked is to end, so it does not begin.
if task[STATE] ~= 'reserved' or mark_of(ARGV[1]) then return 0 end
task[BEGUN], task[TOKEN] = at, ARGV[3]
save(ARGV[1], task, 'running')
return 1
