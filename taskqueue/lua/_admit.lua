-- Stands before the scripts that store new tasks: all of them or none.
-- ARGV[1] not after, ms; [2] tasks and [3] bytes of records that the queue may hold, 0 for no limit;
--      then for each task its values (see store)
-- 'LATE': the clock has passed ARGV[1], and the producer has given up and said so. 'FULL': it would be too much.
-- 'CLOSED': the queue takes no tasks any more.
-- An id that is known already is left as it is: a repeat after a lost reply changes nothing, and is never late or full.
local fresh, count, bytes = {}, 0, 0
for i = 4, #ARGV, VALUES do
  if not fresh[ARGV[i]] and redis.call('HEXISTS', base .. ':state', ARGV[i]) == 0 then
    fresh[ARGV[i]], count, bytes = i, count + 1, bytes + #ARGV[i + 1]
  end
end
if count > 0 then
  if at > tonumber(ARGV[1]) then return 'LATE' end
  if redis.call('HEXISTS', base .. ':control', 'closed') == 1 then return 'CLOSED' end
  -- What has failed is kept for people, and has a limit of its own.
  local held = redis.call('HLEN', base .. ':records') - redis.call('ZCARD', base .. ':failed')
  local weighs = tonumber(redis.call('HGET', base .. ':control', 'bytes') or 0)
  if ARGV[2] ~= '0' and held + count > tonumber(ARGV[2]) then return 'FULL' end
  if ARGV[3] ~= '0' and weighs + bytes > tonumber(ARGV[3]) then return 'FULL' end
end

-- Stores the task at ARGV[i] and returns its id and state; nil if it was there before.
local function admit(i)
  if fresh[ARGV[i]] == i then return store(ARGV, i) end
end
