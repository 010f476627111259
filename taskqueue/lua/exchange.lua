-- Settle the deliveries that have ended, and move up to n tasks from the front of the lines to this consumer: the highest
-- priority first.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] token, [4] n, [5] bytes of records wanted at most (one task is always given),
--      [6] ms for which the queue is to be slowed down, [7] '1' to keep the requests of what has completed; then what has
--      ended (see settle)
-- returns {'OK', {ids whose delivery was no longer held ...}, {id, record, delivery, attempt, crashes}, ...}, or as in
--         _lease.lua.
-- A repeat with the same token, after a lost reply, gives the same tasks again. What cannot be run is set aside.
local lease = redis.call('HMGET', me, 'token', 'count')
local repeated = lease[1] == ARGV[3] and tonumber(lease[2]) or 0
local count, bytes, spoilt, reply = 0, 0, 0, {'OK', settle(8, ARGV[6])}
local function give(id, task, record)
  count, bytes = count + 1, bytes + #record
  reply[count + 2] = {id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]}
end
for i = repeated - 1, 0, -1 do
  local id = redis.call('LINDEX', reserved, i)
  local task, record = id and load(id), id and redis.call('HGET', base .. ':records', id)
  if task and record then give(id, task, record) end
end
local room = repeated == 0 and allowed(tonumber(ARGV[4])) or 0

-- Gives out the front of a line; returns whether there may be more to give, from this line or another.
local function serve(from)
  local ids = redis.call('LRANGE', from, -math.min(room - count, 100), -1)
  look(ids)
  for i = #ids, 1, -1 do
    if spoilt >= 100 then return false end
    local id, task = ids[i], load(ids[i])
    local record = task and task[STATE] == 'queued' and redis.call('HGET', base .. ':records', id)
    if record then
      if count > 0 and bytes + #record > tonumber(ARGV[5]) then return false end
      redis.call('RPOPLPUSH', from, reserved)
      hand_over(id, task)
      give(id, task, record)
    else
      pass_over(from, id, task)
      spoilt = spoilt + 1
    end
  end
  return count < room
end
for _, from in ipairs(lines_in_use()) do
  local more = count < room
  while more and redis.call('EXISTS', from) == 1 do more = serve(from) end
  if not more then break end
end
if repeated == 0 then redis.call('HSET', me, 'token', ARGV[3], 'count', count) end
tell_others(count)
return reply
