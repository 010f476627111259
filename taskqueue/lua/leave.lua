-- Give up a name at the end, so that it is free at once and nobody waits for its beat.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch
-- returns {'OK'}, or as in _lease.lua. With something still reserved the name stays: it is for others to reclaim.
wait_no_more(ARGV[1], lease[2] or '')
if redis.call('LLEN', reserved) == 0 then
  redis.call('DEL', me)
  redis.call('SREM', base .. ':consumers', ARGV[1])
end
return {'OK'}
