-- Queue again what is stuck: said to wait, but in no line; said to be held, but by nobody.
-- KEYS[1] the queue's list
-- ARGV[1] who does it; then ids
-- returns how many were; whatever is where its state says is left alone. What is marked has no holder that could obey: it
-- ends here.
local restarted = 0
local function stuck(id, task)
  if task[STATE] == 'queued' then return not redis.call('LPOS', line(task[PRIORITY]), id) end
  if task[STATE] == 'scheduled' then return not redis.call('ZSCORE', base .. ':scheduled', id) end
  if task[STATE] ~= 'reserved' and task[STATE] ~= 'running' then return false end
  local served = redis.call('SISMEMBER', base .. ':consumers', task[HOLDER]) == 1
  if redis.call('HGET', base .. ':handed', task[HOLDER]) == id then return false end
  return not (served and redis.call('LPOS', base .. ':reserved:' .. task[HOLDER], id))
end
local function restart(id, task)
  local mark = mark_of(id)
  if mark then
    obey(id, task, mark)
  elseif redis.call('HEXISTS', RECORDS, id) == 0 then
    return 0
  else
    if task[STATE] == 'running' then task[CRASHES] = task[CRASHES] + 1 end
    act(id, 'restarted', ARGV[1])
    enqueue(id, task)
  end
  flush()
  return 1
end
for i = 2, #ARGV do
  local id, task = ARGV[i], load(ARGV[i])
  if task and stuck(id, task) then restarted = restarted + restart(id, task) end
end
if restarted > 0 then redis.call('PUBLISH', base, '') end
return restarted
