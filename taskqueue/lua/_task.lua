-- Stands before every script, behind _state.lua: every task that a script looks at, and every change of it.

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
