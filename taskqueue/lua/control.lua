-- Say how a queue is to be run, from whatever machine.
-- KEYS[1] the queue's list
-- ARGV for each: a field of the queue's control, and its value; '' takes it away.
--      paused: nothing is given out; closed: no new task is taken; disabled: both consumers and tasks are turned away;
--      limit: how many tasks may be held by all consumers together
-- returns 'OK'. Consumers are told at once.
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', CONTROL, ARGV[i])
  else
    redis.call('HSET', CONTROL, ARGV[i], ARGV[i + 1])
  end
end
redis.call('PUBLISH', base, '')
return 'OK'
