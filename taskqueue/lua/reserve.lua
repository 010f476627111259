-- Move up to n tasks from the front of the lines to this consumer: the highest priority first.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] token, [4] n, [5] bytes of records wanted at most (one task is always given)
-- returns {'OK', {id, record, delivery, attempt, crashes}, ...}, or as in _lease.lua.
-- A repeat with the same token, after a lost reply, gives the same tasks again. What cannot be run is set aside.
local lease = redis.call('HMGET', me, 'token', 'count')
local repeated = lease[1] == ARGV[3] and tonumber(lease[2]) or 0
local ids, bytes, spoilt, reply = {}, 0, 0, {'OK'}
local function give(id, task, record)
  table.insert(ids, id)
  bytes = bytes + #record
  table.insert(reply, {id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]})
end
for i = repeated - 1, 0, -1 do
  local id = redis.call('LINDEX', reserved, i)
  local task, record = id and load(id), id and redis.call('HGET', base .. ':records', id)
  if task and record then give(id, task, record) end
end
local room = repeated == 0 and allowed(tonumber(ARGV[4])) or 0
local priority = 9
while priority >= 0 and #ids < room and spoilt < 100 do
  local id = redis.call('LINDEX', line(priority), -1)
  local task, record = id and load(id), id and redis.call('HGET', base .. ':records', id)
  if not id then
    priority = priority - 1
  elseif task and record and task[STATE] == 'queued' then
    if #ids > 0 and bytes + #record > tonumber(ARGV[5]) then break end
    redis.call('RPOPLPUSH', line(priority), reserved)
    task[DELIVERY], task[ATTEMPT] = task[DELIVERY] + 1, task[ATTEMPT] + 1
    task[RESERVED], task[BEGUN], task[HOLDER], task[TOKEN] = at, 0, ARGV[1], ''
    save(id, task, 'reserved')
    give(id, task, record)
  else
    -- A task that is rightly somewhere else stays there.
    if not task or task[STATE] == 'queued' then set_aside(id, task) end
    redis.call('RPOP', line(priority))
    spoilt = spoilt + 1
  end
end
if repeated == 0 then redis.call('HSET', me, 'token', ARGV[3], 'count', #ids) end
return reply
