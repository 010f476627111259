-- Store tasks and queue them, all or none.
-- KEYS[1] the queue's list
-- ARGV[1] not after, ms; then for each task: id, record, due (see new), method, path, label
-- returns 'OK', or 'LATE' if the clock has passed ARGV[1]: the producer has given up and said so.
-- An id that is known already is left as it is: a repeat after a lost reply changes nothing, and is never late.
if at > tonumber(ARGV[1]) and redis.call('HEXISTS', base .. ':state', ARGV[2]) == 0 then return 'LATE' end
for i = 2, #ARGV, 6 do
  local id = ARGV[i]
  if redis.call('HEXISTS', base .. ':state', id) == 0 then
    redis.call('HSET', base .. ':records', id, ARGV[i + 1])
    enqueue(id, new(tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]))
  end
end
redis.call('PUBLISH', base, '')
return 'OK'
