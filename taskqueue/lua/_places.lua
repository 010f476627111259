-- Stands before every script, behind _moves.lua: the places where a task may be, and how it gets there.
local INDEX = {scheduled = ':scheduled', prepared = ':prepared', waiting = ':waiting', completed = ':finished',
  failed = ':failed', cancelled = ':cancelled', archived = ':archived'}
-- What tasks are found by, beside their state.
local BY = {{':by:owner:', OWNER}, {':by:label:', LABEL}, {':by:route:', ROUTE}}
-- What FLAGS is the sum of.
local CHILD, MASTER, GHOST = 1, 2, 4

local function is(task, flag)
  return math.floor(task[FLAGS] / flag) % 2 == 1
end

-- The list in which a task waits: each priority is a line of its own, the normal one the queue's own list.
local function line(priority)
  if priority == NORMAL then return base end
  return base .. ':p' .. priority
end

local function list_in(id, task, state)
  gather(arriving, 'ZADD', base .. INDEX[state], state == 'scheduled' and task[DUE] or at, id)
  save(id, task, state)
end

-- A ghost (see withdraw.lua) is none any more: its id has left the line, or it is queued again where it stands.
local function lay(task)
  task[FLAGS] = task[FLAGS] - GHOST
  local left = redis.call('HINCRBY', CONTROL, 'ghosts', -1)
  if left <= 0 then redis.call('HDEL', CONTROL, 'ghosts') end
end

-- To the back of its line, or among the scheduled until its time.
local function enqueue(id, task)
  if task[DUE] > at then return list_in(id, task, 'scheduled') end
  if is(task, GHOST) then lay(task) else gather(arriving, 'LPUSH', line(task[PRIORITY]), id) end
  save(id, task, 'queued')
end
