-- Note that deliveries start to run in the application. Those that start at once travel together.
-- KEYS[1] the queue's list
-- ARGV for each: id, delivery, random token of this very start
-- returns for each: 1, or 0 if this delivery has started already or is not the one the task is reserved under.
local ids, reply = {}, {}
local function begin(id, delivery, token)
  local task = load(id)
  if not task or task[DELIVERY] ~= delivery then return 0 end
  if task[STATE] == 'running' then return task[TOKEN] == token and 1 or 0 end
  -- What is marked is to end, so it does not begin.
  if task[STATE] ~= 'reserved' or mark_of(id) then return 0 end
  task[BEGUN], task[TOKEN] = at, token
  save(id, task, 'running')
  return 1
end
for i = 1, #ARGV, 3 do table.insert(ids, ARGV[i]) end
look(ids)
for i = 1, #ARGV, 3 do table.insert(reply, begin(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2])) end
flush()
return reply
