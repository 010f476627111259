-- Keep in a task's log what its delivery says of itself.
-- KEYS[1] the queue's list
-- ARGV[1] id, [2] delivery; then for each: field, value, '' to keep none
-- returns 1, or 0 if that delivery is not under way (any more).
local task = load(ARGV[1])
if not task or task[DELIVERY] ~= tonumber(ARGV[2]) then return 0 end
if task[STATE] ~= 'reserved' and task[STATE] ~= 'running' then return 0 end
local log = base .. ':log:' .. ARGV[1]
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', log, ARGV[i]) else redis.call('HSET', log, ARGV[i], ARGV[i + 1]) end
end
return 1
