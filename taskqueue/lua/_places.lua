-- Stands before every script, behind _task.lua: the places where a task may be, and how it gets there.
-- The list in which a task waits: each priority is a line of its own, the normal one the queue's own list.
local function line(priority)
  if priority == NORMAL then return base end
  return base .. ':p' .. priority
end

-- To the back of its line, or among the scheduled until its time.
local function enqueue(id, task)
  if task[DUE] > at then
    redis.call('ZADD', base .. ':scheduled', task[DUE], id)
    save(id, task, 'scheduled')
  else
    redis.call('LPUSH', line(task[PRIORITY]), id)
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
  fail(id, task or new(0, '', '', '', NORMAL), 'format')
end
