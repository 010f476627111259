-- Keep in a task's log what its delivery says of itself.
-- KEYS[1] the queue's list
-- ARGV[1] id, [2] delivery; then for each: field, value
-- returns 1, or 0 if that delivery is not under way (any more).
local task = load(ARGV[1])
if not task or task[DELIVERY] ~= tonumber(ARGV[2]) then return 0 end
if task[STATE] ~= 'reserved' and task[STATE] ~= 'running' then return 0 end
redis.call('HSET', base .. ':log:' .. ARGV[1], unpack(ARGV, 3))
return 1
