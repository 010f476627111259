-- Stands before every script. A task's state is one packed array in {q}:state; every move of a task goes through here:
-- the destination is written before the source is left, because an error in mid-script does not undo what was written.
-- KEYS[1] is the queue's list, base of all its other keys (one hash tag, so one Cluster slot).
local base = KEYS[1]
local STATE, DELIVERY, ATTEMPT, CRASHES, ADDED, DUE, RESERVED, BEGUN, CHANGED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local STATUS, REASON, HOLDER, TOKEN, METHOD, PATH, LABEL, PRIORITY = 10, 11, 12, 13, 14, 15, 16, 17
local OWNER, ROUTE, PARENT, FLAGS, OPEN, SPOILT = 18, 19, 20, 21, 22, 23
-- OPEN counts a task's children that have not ended, SPOILT those that failed.
local NORMAL = 4

local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Returns nil for what has no state, and for a state that something else than these scripts has written: what cannot be
-- unpacked comes back from pcall as the text of an error.
local function unpacked(packed)
  local _, task = pcall(cmsgpack.unpack, packed)
  if type(task) ~= 'table' or #task ~= SPOILT then return end
  for i = STATE, SPOILT do
    local number = i >= DELIVERY and i <= STATUS or i >= FLAGS or i == PRIORITY
    if type(task[i]) ~= (number and 'number' or 'string') then return end
  end
  -- There is a line for each of ten priorities, and no other.
  local priority = task[PRIORITY]
  if priority < 0 or priority > 9 or priority % 1 ~= 0 then return end
  return task
end

-- What a script has looked at stays known to it, and every write goes through put: so nobody works on an old copy.
local known = {}
local function look(ids)
  if #ids == 0 then return end
  for i, packed in ipairs(redis.call('HMGET', base .. ':state', unpack(ids))) do
    known[ids[i]] = unpacked(packed) or false
  end
end

local function load(id)
  if known[id] == nil then look({id}) end
  return known[id] or nil
end

local function put(id, task)
  known[id] = task
  redis.call('HSET', base .. ':state', id, cmsgpack.pack(task))
end

local function save(id, task, state)
  task[STATE], task[CHANGED] = state, at
  put(id, task)
end
