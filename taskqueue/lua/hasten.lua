-- Queue now what waits for its time, in front of its line.
-- KEYS[1] the queue's list
-- ARGV[1] who does it; then ids
-- returns how many were; what is not scheduled is left alone.
local hastened = 0
for i = #ARGV, 2, -1 do
  local id, task = ARGV[i], load(ARGV[i])
  if task and task[STATE] == 'scheduled' then
    task[DUE] = math.min(task[DUE], at)
    act(id, 'hastened', ARGV[1])
    gather(arriving, 'RPUSH', line(task[PRIORITY]), id)
    save(id, task, 'queued')
    gather(leaving, 'ZREM', base .. ':scheduled', id)
    hastened = hastened + 1
  end
end
flush()
if hastened > 0 then redis.call('PUBLISH', base, '') end
return hastened
