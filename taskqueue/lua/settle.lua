-- End deliveries: complete, retry, fail or release.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch, [3] ms for which the queue is to be slowed down; then for each, in the order they were
--      reserved: id, delivery, kind, delay ms, status, reason, sealed response ('' for none)
-- returns {'OK', ids whose delivery this consumer no longer held ...}, or as in _lease.lua.
-- A repeat after a lost reply finds the delivery ended, and changes nothing.
local reply = {'OK'}
local slowed = ARGV[3] ~= '0' and math.max(at + ARGV[3], redis.call('HGET', base .. ':control', 'slowed') or 0)
if slowed then redis.call('HSET', base .. ':control', 'slowed', slowed) end
-- From last to first, so that what is released stands in front in the order it came.
for i = #ARGV - 6, 4, -7 do
  local id, delivery, kind = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local task = load(id)
  local held = task and task[DELIVERY] == delivery and task[HOLDER] == ARGV[1]
  if held and (task[STATE] == 'reserved' or task[STATE] == 'running') then
    task[STATUS], task[REASON] = tonumber(ARGV[i + 4]), ARGV[i + 5]
    if kind == 'complete' then
      redis.call('ZADD', base .. ':finished', at, id)
      save(id, task, 'completed')
      drop_record(id)
      redis.call('HDEL', base .. ':log:' .. id, 'response')
    elseif kind == 'release' then
      task[ATTEMPT], task[DUE] = task[ATTEMPT] - 1, at + tonumber(ARGV[i + 3])
      if task[DUE] > at then
        enqueue(id, task)
      else
        redis.call('RPUSH', line(task[PRIORITY]), id)
        save(id, task, 'queued')
      end
    else
      redis.call('HSET', base .. ':log:' .. id, delivery, cmsgpack.pack(
        {task[ATTEMPT], task[RESERVED], task[BEGUN], at, task[STATUS], task[REASON], ARGV[1], kind}))
      if ARGV[i + 6] ~= '' then redis.call('HSET', base .. ':log:' .. id, 'response', ARGV[i + 6]) end
      if kind == 'retry' then
        task[DUE] = at + tonumber(ARGV[i + 3])
        redis.call('ZADD', base .. ':scheduled', task[DUE], id)
        save(id, task, 'scheduled')
      else
        fail(id, task, task[REASON])
      end
    end
    redis.call('LREM', reserved, -1, id)
  elseif not held then
    table.insert(reply, id)
  end
end
return reply
