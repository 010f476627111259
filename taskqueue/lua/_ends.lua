-- Stands before the scripts in which a task may come to its end.

-- Queues a task that follows from the end of another: its values (see store), packed. It belongs to what was accepted
-- long ago, so no limit of the queue stands in its way.
local function follow(packed)
  local values = cmsgpack.unpack(packed)
  if exists(values[1]) then return end
  enqueue(store(values, 1))
  redis.call('PUBLISH', base, '')
end

-- A child has ended: with the last one, its parent does, and perhaps that one's parent.
local function tell_parent(task, state)
  while is(task, CHILD) do
    local id, parent = task[PARENT], load(task[PARENT])
    if not parent then return end
    parent[OPEN] = parent[OPEN] - 1
    if state == 'failed' then parent[SPOILT] = parent[SPOILT] + 1 end
    if parent[STATE] ~= 'waiting' or parent[OPEN] > 0 then return put(id, parent) end
    task, state = parent, parent[SPOILT] > 0 and 'failed' or 'completed'
    if state == 'failed' then task[REASON] = 'children' end
    list_in(id, task, state)
    gather(leaving, 'ZREM', base .. INDEX.waiting, id)
    if state == 'completed' then drop_record(id) end
    local following = redis.call('HGET', base .. ':log:' .. id, state)
    if following then follow(following) end
  end
end

local function conclude(id, task, state)
  list_in(id, task, state)
  tell_parent(task, state)
end

local function fail(id, task, reason)
  task[REASON] = reason
  conclude(id, task, 'failed')
end

-- What is not of our making is kept, to be looked at, and out of the way.
local function set_aside(id, task)
  fail(id, task or {'', 0, 0, 0, at, 0, 0, 0, at, 0, '', '', '', '', '', '', NORMAL, '', '', '', 0, 0, 0}, 'format')
end
