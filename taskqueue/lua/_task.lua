-- Stands before every script. A task's state is one packed array in {q}:state; every move of a task goes through here:
-- the destination is written before the source is left, because an error in mid-script does not undo what was written.
-- KEYS[1] is the queue's list, base of all its other keys (one hash tag, so one Cluster slot).
local base = KEYS[1]
local STATE, DELIVERY, ATTEMPT, CRASHES, ADDED, DUE, RESERVED, BEGUN, CHANGED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local STATUS, REASON, HOLDER, TOKEN, METHOD, PATH, LABEL, PRIORITY = 10, 11, 12, 13, 14, 15, 16, 17
local NORMAL = 4

local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- due: ms since 1970, 0 for at once, or minus a delay in ms that counts from now.
local function new(due, method, path, label, priority)
  if due < 0 then due = at - due end
  return {'', 0, 0, 0, at, due, 0, 0, at, 0, '', '', '', method, path, label, priority}
end

-- Returns nil for an id without state, and for a state that something else than these scripts has written: what cannot be
-- unpacked comes back from pcall as the text of an error.
local function load(id)
  local _, task = pcall(cmsgpack.unpack, redis.call('HGET', base .. ':state', id))
  if type(task) ~= 'table' or #task ~= PRIORITY then return end
  for i = DELIVERY, STATUS do
    if type(task[i]) ~= 'number' then return end
  end
  -- There is a line for each of ten priorities, and no other.
  local priority = task[PRIORITY]
  if type(priority) ~= 'number' or priority < 0 or priority > 9 or priority % 1 ~= 0 then return end
  return task
end

local function save(id, task, state)
  task[STATE], task[CHANGED] = state, at
  redis.call('HSET', base .. ':state', id, cmsgpack.pack(task))
end
