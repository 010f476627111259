-- Stands before the scripts that a consumer calls under its lease. ARGV[1] consumer, [2] epoch.
-- 'FENCED': the name was taken over. 'GONE': Redis has forgotten this consumer.
local me, reserved = base .. ':consumer:' .. ARGV[1], base .. ':reserved:' .. ARGV[1]
local lease = redis.call('HMGET', me, 'epoch', 'token', 'count', 'waits')
if not lease[1] then return {'GONE'} end
if lease[1] ~= ARGV[2] then return {'FENCED'} end
