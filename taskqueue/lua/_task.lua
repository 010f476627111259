-- Stands before every script. A task's state is one packed array in {q}:state; every move of a task goes through here:
-- the destination is written before the source is left, because an error in mid-script does not undo what was written.
-- KEYS[1] is the queue's list, base of all its other keys (one hash tag, so one Cluster slot).
local base = KEYS[1]
local STATE, DELIVERY, ATTEMPT, CRASHES, ADDED, DUE, RESERVED, BEGUN, CHANGED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local STATUS, REASON, HOLDER, TOKEN, METHOD, PATH, LABEL = 10, 11, 12, 13, 14, 15, 16

local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- due: ms since 1970, 0 for at once, or minus a delay in ms that counts from now.
local function new(due, method, path, label)
  if due < 0 then due = at - due end
  return {'', 0, 0, 0, at, due, 0, 0, at, 0, '', '', '', method, path, label}
end

-- Returns nil for an id without state, and for a state that something else than these scripts has written: what cannot be
-- unpacked comes back from pcall as the text of an error.
local function load(id)
  local _, task = pcall(cmsgpack.unpack, redis.call('HGET', base .. ':state', id))
  if type(task) ~= 'table' or #task ~= LABEL then return end
  for i = DELIVERY, STATUS do
    if type(task[i]) ~= 'number' then return end
  end
  return task
end

local function save(id, task, state)
  task[STATE], task[CHANGED] = state, at
  redis.call('HSET', base .. ':state', id, cmsgpack.pack(task))
end

-- To the back of the line, or among the scheduled until its time.
local function enqueue(id, task)
  if task[DUE] > at then
    redis.call('ZADD', base .. ':scheduled', task[DUE], id)
    save(id, task, 'scheduled')
  else
    redis.call('LPUSH', base, id)
    save(id, task, 'queued')
  end
end

local function fail(id, task, reason)
  task[REASON] = reason
  redis.call('ZADD', base .. ':failed', at, id)
  save(id, task, 'failed')
end

-- What is not of our making is kept, to be looked at, and out of the way.
local function set_aside(id, task)
  fail(id, task or new(0, '', '', ''), 'format')
end
