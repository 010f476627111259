-- Empty a queue at one stroke. Consumers keep their leases: what they still run is settled as stale.
-- KEYS[1] the queue's list
-- returns 'OK', or 'AGAIN' if an earlier reset was broken off: nothing is done before :emptied is gone.
-- The tasks' logs are keys of their own, and they stand among those of their owner, label and route; :emptied keeps ids
-- and states until the caller has removed all that.
if redis.call('EXISTS', base .. ':emptied') == 1 then return 'AGAIN' end
for _, consumer in ipairs(redis.call('SMEMBERS', base .. ':consumers')) do
  redis.call('UNLINK', base .. ':reserved:' .. consumer)
end
if redis.call('EXISTS', STATES) == 1 then redis.call('RENAME', STATES, base .. ':emptied') end
redis.call('HDEL', CONTROL, 'bytes', 'ghosts')
for priority = 0, 9 do redis.call('UNLINK', line(priority)) end
for _, index in pairs(INDEX) do redis.call('UNLINK', base .. index) end
redis.call('UNLINK', RECORDS, base .. ':marks', base .. ':handed')
return 'OK'
