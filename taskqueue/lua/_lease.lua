-- Stands before the scripts that a consumer calls under its lease. ARGV[1] consumer, [2] epoch.
-- 'FENCED': the name was taken over. 'GONE': Redis has forgotten this consumer.
local me, reserved = base .. ':consumer:' .. ARGV[1], base .. ':reserved:' .. ARGV[1]
local epoch = redis.call('HGET', me, 'epoch')
if not epoch then return {'GONE'} end
if epoch ~= ARGV[2] then return {'FENCED'} end
