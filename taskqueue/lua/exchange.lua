-- Settle the deliveries that have ended, and move up to n tasks from the front of the lines to this consumer: the highest
-- priority first.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] token, [4] n, [5] bytes of records wanted at most (one task is always given),
--      [6] ms for which the queue is to be slowed down, [7] '1' to keep the requests of what has completed, [8] '1' if
--      this consumer, when it finds nothing, may be handed a task that comes later (see push); then what has ended (see
--      settle)
-- returns {'OK', {ids whose delivery was no longer held ...}, {id, record, delivery, attempt, crashes}, ...}, or as in
--         _lease.lua.
-- A repeat with the same token, after a lost reply, gives the same tasks again, and so does whatever comes after a task
-- was handed over: its holder knows which it has. What cannot be run is set aside.
local repeated = lease[2] == ARGV[3] and tonumber(lease[3]) or 0
local handed = lease[4] and wait_no_more(ARGV[1], lease[2])
reply[2] = settle(9, ARGV[6])
for i = repeated - 1, 0, -1 do
  local id = redis.call('LINDEX', reserved, i)
  local task, record = id and load(id), id and redis.call('HGET', RECORDS, id)
  if task and record then give(id, task, record) end
end
if handed then give_again(handed) end
local room = repeated == 0 and allowed(tonumber(ARGV[4])) or 0
for _, from in ipairs(lines_in_use()) do
  local more = count < room
  while more do
    local ids = redis.call('LRANGE', from, -math.min(room - count, 100), -1)
    if #ids == 0 then break end
    more = serve(from, ids) and count < room
  end
  if not more then break end
end
if repeated == 0 then
  redis.call('HSET', me, 'token', ARGV[3], 'count', count)
  if ARGV[8] == '1' and count == 0 and room > 0 then
    redis.call('HSET', me, 'waits', '1')
    redis.call('ZADD', IDLE, at, ARGV[1] .. ':' .. ARGV[3])
  end
end
tell_others(count)
return reply
