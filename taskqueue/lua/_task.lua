-- Stands before every script. A task's state is one packed array in {q}:state; every move of a task goes through here.
-- What is to be written is gathered, and flush makes one command of all that goes the same way into one key. The
-- destinations are written before the sources are left, because an error in mid-script does not undo what was written.
-- KEYS[1] is the queue's list, base of all its other keys (one hash tag, so one Cluster slot).
local base = KEYS[1]
local STATES, RECORDS, CONTROL = base .. ':state', base .. ':records', base .. ':control'
local STATE, DELIVERY, ATTEMPT, CRASHES, ADDED, DUE, RESERVED, BEGUN, CHANGED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local STATUS, REASON, HOLDER, TOKEN, METHOD, PATH, LABEL, PRIORITY = 10, 11, 12, 13, 14, 15, 16, 17
local OWNER, ROUTE, PARENT, FLAGS, OPEN, SPOILT = 18, 19, 20, 21, 22, 23
-- OPEN counts a task's children that have not ended, SPOILT those that failed.
local NORMAL = 4

local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Returns the task that is packed here, or nothing, or raises an error. No text is below '' and no number below NONE, and
-- to compare one with the other, or with anything else, is an error: the quickest way to ask so many for their types.
local NONE = -math.huge
local function read(packed)
  local t = cmsgpack.unpack(packed)
  if #t ~= SPOILT or t[1] < '' or t[2] < NONE or t[3] < NONE or t[4] < NONE or t[5] < NONE or t[6] < NONE
    or t[7] < NONE or t[8] < NONE or t[9] < NONE or t[10] < NONE or t[11] < '' or t[12] < '' or t[13] < ''
    or t[14] < '' or t[15] < '' or t[16] < '' or t[18] < '' or t[19] < '' or t[20] < '' or t[21] < NONE
    or t[22] < NONE or t[23] < NONE then return end
  -- There is a line for each of ten priorities, and no other.
  local priority = t[PRIORITY]
  if priority >= 0 and priority <= 9 and priority % 1 == 0 then return t end
end

-- Returns nil for a state that something else than these scripts has written.
local function unpacked(packed)
  local sound, task = pcall(read, packed)
  return sound and task or nil
end

-- What a script has looked at stays known to it, and every write goes through put: so nobody works on an old copy. For
-- each id: the task; the text that is there but no task; or false if nothing is.
local known, changed = {}, {}
-- So many values go into one command at most: Lua's stack has an end, and each is copied.
local WIDE = 200
local function look(ids)
  for first = 1, #ids, WIDE do
    local last = math.min(first + WIDE - 1, #ids)
    for i, packed in ipairs(redis.call('HMGET', STATES, unpack(ids, first, last))) do
      known[ids[first + i - 1]] = packed and unpacked(packed) or packed
    end
  end
end

local function load(id)
  if known[id] == nil then look({id}) end
  local task = known[id]
  return type(task) == 'table' and task or nil
end

local function put(id, task)
  if not changed[id] then changed[id], changed[#changed + 1] = true, id end
  known[id] = task
end

local function save(id, task, state)
  task[STATE], task[CHANGED] = state, at
  put(id, task)
end

-- Where tasks come to, and what they leave: commands in the order in which each was first needed, by their keys as well.
local arriving, leaving = {}, {}
local function gather(moves, command, key, value, other)
  local move = moves[key]
  if move and move[1] == command then
    local last = #move
    move[last + 1], move[last + 2] = value, other
  else
    move = {command, key, value, other}
    moves[key], moves[#moves + 1] = move, move
  end
end

local function carry_out(move)
  if #move <= WIDE then return #move > 2 and redis.call(unpack(move)) end
  for i = 3, #move, WIDE do
    redis.call(move[1], move[2], unpack(move, i, math.min(i + WIDE - 1, #move)))
  end
end

-- The bytes of all records: read once, counted here, and written by flush as ``counted`` says. And which records go.
local weight, counted
local dropped = {}
local function weigh(change)
  weight = weight or tonumber(redis.call('HGET', CONTROL, 'bytes') or 0)
  weight, counted = weight + change, 'HSET'
  return weight
end

local function flush()
  if counted == 'HSET' then redis.call('HSET', CONTROL, 'bytes', weight) end
  if counted == 'HDEL' then redis.call('HDEL', CONTROL, 'bytes') end
  for _, move in ipairs(arriving) do carry_out(move) end
  local states = {'HSET', STATES}
  for _, id in ipairs(changed) do
    local task = known[id]
    if task then states[#states + 1], states[#states + 2] = id, cmsgpack.pack(task) end
  end
  carry_out(states)
  for _, move in ipairs(leaving) do carry_out(move) end
  arriving, leaving, changed, dropped, counted = {}, {}, {}, {}, nil
end
