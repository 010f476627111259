-- Forget what waits: in the lines, and for its time.
-- KEYS[1] the queue's list
-- ARGV[1] at most so many
-- returns how many were forgotten: repeat until none was.
local left = tonumber(ARGV[1])
local function remove(id, state)
  local task = load(id)
  if task and is(task, GHOST) then
    lay(task)
    put(id, task)
  elseif not task or task[STATE] == state then
    -- A task that is rightly somewhere else stays there.
    forget(id)
    flush()
    redis.call('UNLINK', base .. ':log:' .. id)
    if task then tell_parent(task, 'cancelled') end
  end
  flush()
  left = left - 1
end
for priority = 0, 9 do
  local id = redis.call('LINDEX', line(priority), -1)
  while id and left > 0 do
    remove(id, 'queued')
    redis.call('RPOP', line(priority))
    id = redis.call('LINDEX', line(priority), -1)
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. ':scheduled', '-inf', '+inf', 'LIMIT', 0, left)) do
  remove(id, 'scheduled')
  redis.call('ZREM', base .. ':scheduled', id)
end
return tonumber(ARGV[1]) - left
