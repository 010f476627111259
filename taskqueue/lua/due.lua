-- Move into the line what has fallen due, and set aside what no producer has promoted or discarded.
-- KEYS[1] the queue's list
-- ARGV[1] ms after which something prepared is in doubt: its producer has died between vote and finish
-- returns ms until the next scheduled task falls due, or -1.
if redis.call('EXISTS', base .. ':scheduled', base .. ':prepared') == 0 then return -1 end
local ids = redis.call('ZRANGEBYSCORE', base .. ':scheduled', '-inf', at, 'LIMIT', 0, 100)
look(ids)
for _, id in ipairs(ids) do
  local task = load(id)
  if not task then
    set_aside(id)
  elseif task[STATE] == 'scheduled' then
    task[DUE] = math.min(task[DUE], at)
    enqueue(id, task)
  end
  gather(leaving, 'ZREM', base .. ':scheduled', id)
end
ids = redis.call('ZRANGEBYSCORE', base .. ':prepared', '-inf', at - ARGV[1], 'LIMIT', 0, 100)
look(ids)
for _, id in ipairs(ids) do
  local task = load(id)
  if task then fail(id, task, 'in-doubt') else set_aside(id) end
  gather(leaving, 'ZREM', base .. ':prepared', id)
end
flush()
local next_due = redis.call('ZRANGE', base .. ':scheduled', 0, 0, 'WITHSCORES')[2]
return next_due and math.max(0, next_due - at) or -1
