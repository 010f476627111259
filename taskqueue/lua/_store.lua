-- Stands before the scripts by which tasks begin, or begin anew.
local ENDED = {completed = true, failed = true, cancelled = true, archived = true}

local function exists(id)
  if known[id] == nil then look({id}) end
  return known[id] ~= false
end

-- A task begins, or begins anew after it had failed (spoilt 1) or was cancelled (0): its parent waits for it, unless
-- that has ended. Then it is a child no more.
local function open_child(task, spoilt)
  if not is(task, CHILD) then return end
  local parent = load(task[PARENT])
  if not parent or ENDED[parent[STATE]] then
    task[FLAGS] = task[FLAGS] - CHILD
    return
  end
  parent[OPEN], parent[SPOILT] = parent[OPEN] + 1, math.max(0, parent[SPOILT] - spoilt)
  put(task[PARENT], parent)
end

-- Writes a new task, except its place: values from[i] and on are id, record, due (ms since 1970, 0 for at once, or minus
-- a delay in ms that counts from now), method, path, label, priority, owner, route, parent, flags.
local VALUES = 11
local function store(from, i)
  local id, record, due = from[i], from[i + 1], tonumber(from[i + 2])
  gather(arriving, 'HSET', RECORDS, id, record)
  weigh(#record)
  if due < 0 then due = at - due end
  local task = {'', 0, 0, 0, at, due, 0, 0, at, 0, '', '', '', from[i + 3], from[i + 4], from[i + 5],
    tonumber(from[i + 6]), from[i + 7], from[i + 8], from[i + 9], tonumber(from[i + 10]), 0, 0}
  for _, by in ipairs(BY) do
    if task[by[2]] ~= '' then gather(arriving, 'ZADD', base .. by[1] .. task[by[2]], at, id) end
  end
  open_child(task, 0)
  return id, task
end
