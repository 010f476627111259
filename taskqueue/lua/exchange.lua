-- Settle the deliveries that have ended, and move up to n tasks from the front of the lines to this consumer: the highest
-- priority first.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] token, [4] n, [5] bytes of records wanted at most (one task is always given),
--      [6] ms for which the queue is to be slowed down, [7] '1' to keep the requests of what has completed; then what has
--      ended (see settle)
-- returns {'OK', {ids whose delivery was no longer held ...}, {id, record, delivery, attempt, crashes}, ...}, or as in
--         _lease.lua.
-- A repeat with the same token, after a lost reply, gives the same tasks again. What cannot be run is set aside.
local repeated = lease[2] == ARGV[3] and tonumber(lease[3]) or 0
local count, bytes, spoilt, reply = 0, 0, 0, {'OK', settle(8, ARGV[6])}
local function give(id, task, record)
  count, bytes = count + 1, bytes + #record
  reply[count + 2] = {id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]}
end
for i = repeated - 1, 0, -1 do
  local id = redis.call('LINDEX', reserved, i)
  local task, record = id and load(id), id and redis.call('HGET', RECORDS, id)
  if task and record then give(id, task, record) end
end
local room = repeated == 0 and allowed(tonumber(ARGV[4])) or 0

-- Returns ids and records of the first of these tasks, the front of a line: as many as may still be given, and one more.
local function fetch(ids)
  local first, sum = {}, bytes
  for i = #ids, 1, -1 do
    first[#first + 1] = ids[i]
    sum = sum + (i > 1 and redis.call('HSTRLEN', RECORDS, ids[i]) or 0)
    if sum > tonumber(ARGV[5]) then break end
  end
  return first, redis.call('HMGET', RECORDS, unpack(first))
end

-- Gives out the front of a line, these ids; returns whether there may be more to give, from this line or another.
local function serve(from, ids)
  look(ids)
  local first, records = fetch(ids)
  local more, done = true, 0
  for i, id in ipairs(first) do
    local task, record = load(id), records[i]
    local sound = task and task[STATE] == 'queued' and record
    more = spoilt < 100 and not (sound and count > 0 and bytes + #record > tonumber(ARGV[5]))
    if not more then break end
    if sound then
      hand_over(id, task)
      give(id, task, record)
    else
      pass_over(id, task)
      spoilt = spoilt + 1
    end
    done = i
  end
  flush()
  redis.call('LTRIM', from, 0, -1 - done)
  return more and count < room
end
for _, from in ipairs(lines_in_use()) do
  local more = count < room
  while more do
    local ids = redis.call('LRANGE', from, -math.min(room - count, 100), -1)
    if #ids == 0 then break end
    more = serve(from, ids)
  end
  if not more then break end
end
if repeated == 0 then redis.call('HSET', me, 'token', ARGV[3], 'count', count) end
tell_others(count)
return reply
