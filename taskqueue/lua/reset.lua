-- Empty a queue, a chunk a call. Consumers keep their leases: what they still run is settled as stale.
-- KEYS[1] the queue's list
-- ARGV[1] tasks a call
-- returns how many tasks are left: repeat until 0.
redis.call('UNLINK', base, base .. ':scheduled', base .. ':prepared', base .. ':failed', base .. ':finished')
local found = redis.call('HSCAN', base .. ':state', 0, 'COUNT', ARGV[1])[2]
for i = 1, #found, 2 do
  local id, task = found[i], load(found[i])
  if task and task[HOLDER] ~= '' then redis.call('LREM', base .. ':reserved:' .. task[HOLDER], 0, id) end
  redis.call('UNLINK', base .. ':log:' .. id)
  redis.call('HDEL', base .. ':records', id)
  redis.call('HDEL', base .. ':state', id)
end
local left = redis.call('HLEN', base .. ':state')
if left == 0 then redis.call('UNLINK', base .. ':records') end
return left
