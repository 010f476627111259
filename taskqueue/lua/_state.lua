-- Stands before every script. A task's state is one packed array in {q}:state.
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
