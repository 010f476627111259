-- Stands before exchange: ends deliveries.

-- Gives a task back, unspent.
local function release(id, task, delay)
  log_release(id, task[REASON], ARGV[1])
  task[ATTEMPT], task[DUE] = task[ATTEMPT] - 1, at + delay
  if delay > 0 then return enqueue(id, task) end
  gather(arriving, 'RPUSH', line(task[PRIORITY]), id)
  save(id, task, 'queued')
end

-- Ends the deliveries in ARGV[first] and on: complete, retry, fail or release. For each, in the
-- order they were reserved: id, delivery, kind, delay ms, status, reason, sealed response ('' for none), and what follows
-- when the task has completed, and when it has failed (see follow).
-- ``slow``: ms for which the queue is to be slowed down, '0' for not at all.
-- Returns the ids whose delivery this consumer no longer held. A repeat finds the deliveries ended, and changes nothing.
local function settle(first, slow)
  local stale, ids, ended = {}, {}, {}
  local slowed = slow ~= '0' and math.max(at + slow, redis.call('HGET', CONTROL, 'slowed') or 0)
  if slowed then redis.call('HSET', CONTROL, 'slowed', slowed) end
  for i = first, #ARGV, 9 do table.insert(ids, ARGV[i]) end
  look(ids)
  -- From last to first, so that what is released stands in front in the order it came.
  for i = #ARGV - 8, first, -9 do
    local id, kind, delay = ARGV[i], ARGV[i + 2], tonumber(ARGV[i + 3])
    local task, response, following = load(id), ARGV[i + 6], {ARGV[i + 7], ARGV[i + 8]}
    local held = task and task[DELIVERY] == tonumber(ARGV[i + 1]) and task[HOLDER] == ARGV[1]
    if held and (task[STATE] == 'reserved' or task[STATE] == 'running') then
      task[STATUS], task[REASON] = tonumber(ARGV[i + 4]), ARGV[i + 5]
      local mark = mark_of(id)
      if mark then
        log_ending(id, task, mark)
        obey(id, task, mark)
      elseif kind == 'complete' then
        complete(id, task, response, following)
      elseif kind == 'release' then
        release(id, task, delay)
      else
        fall(id, task, kind, delay, response, following)
      end
      ended[#ended + 1] = id
    elseif not held then
      table.insert(stale, id)
    end
  end
  flush()
  if #ended > 0 then let_go(ended) end
  return stale
end
