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

-- Calls a command with these values, so many at a time that neither Lua's stack nor a copy of them grows large.
local WIDE = 200
local function spread(command, key, values)
  for i = 1, #values, WIDE do redis.call(command, key, unpack(values, i, math.min(i + WIDE - 1, #values))) end
end

-- What a script has looked at stays known to it, and every write goes through put: so nobody works on an old copy. For
-- each id: the task; the text that is there but no task; or false if nothing is.
local known, changed = {}, {}
local function look(ids)
  for first = 1, #ids, WIDE do
    local last = math.min(first + WIDE - 1, #ids)
    for i, packed in ipairs(redis.call('HMGET', STATES, unpack(ids, first, last))) do
      known[ids[first + i - 1]] = packed and unpacked(packed) or packed
    end
  end
end

local function exists(id)
  if known[id] == nil then look({id}) end
  return known[id] ~= false
end

local function load(id)
  return exists(id) and type(known[id]) == 'table' and known[id] or nil
end

local function put(id, task)
  if not changed[id] then changed[id], changed[#changed + 1] = true, id end
  known[id] = task
end

local function save(id, task, state)
  task[STATE], task[CHANGED] = state, at
  put(id, task)
end

-- Where tasks come to, and what they leave: for each key its command and its values, in the order of the first of them.
local arriving, leaving = {}, {}
local function gather(moves, command, key, value, other)
  local move = moves[key]
  if not move or move.command ~= command then
    move = {command = command, key = key}
    moves[key], moves[#moves + 1] = move, move
  end
  move[#move + 1] = value
  if other then move[#move + 1] = other end
end

-- The bytes of all records: read once, counted here, and written by flush as ``counted`` says. And which records go.
local weight, counted
local dropped = {}
local function weigh()
  weight = weight or tonumber(redis.call('HGET', CONTROL, 'bytes') or 0)
  return weight
end

local function add_bytes(count)
  weight, counted = weigh() + count, 'HSET'
end

-- The counter is no more when nothing is left of it.
local function take_bytes(count)
  weight = math.max(0, weigh() - count)
  counted = weight > 0 and 'HSET' or 'HDEL'
end

local function spread_all(moves)
  for _, move in ipairs(moves) do spread(move.command, move.key, move) end
end

local function flush()
  if counted == 'HSET' then redis.call('HSET', CONTROL, 'bytes', weight) end
  if counted == 'HDEL' then redis.call('HDEL', CONTROL, 'bytes') end
  spread_all(arriving)
  local states = {}
  for _, id in ipairs(changed) do
    if known[id] then
      states[#states + 1] = id
      states[#states + 1] = cmsgpack.pack(known[id])
    end
  end
  spread('HSET', STATES, states)
  spread_all(leaving)
  arriving, leaving, changed, dropped, counted = {}, {}, {}, {}, nil
end
