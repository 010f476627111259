-- Stands before the scripts that store new tasks. Commits that come at once travel together, and each is taken as if it
-- had come alone: all of its tasks or none.
-- ARGV for each commit: not after, ms; tasks and bytes of records that the queue may hold, 0 for no limit; how many tasks
--      follow; then for each task its values (see store)
-- Answers for each commit: 'OK'; 'LATE': the clock has passed its time, and the producer has given up and said so;
-- 'FULL': it would be too much; 'CLOSED': the queue takes no tasks any more; or the error that Redis has raised.
-- An id that is known already is left as it is: a repeat after a lost reply changes nothing, and is never late or full.
local HEAD = 4

local function refusal(first, count, bytes)
  local control = redis.call('HMGET', base .. ':control', 'closed', 'bytes')
  local most, heaviest, weighs = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(control[2] or 0)
  if at > tonumber(ARGV[first]) then return 'LATE' end
  if control[1] then return 'CLOSED' end
  -- What has failed is kept for people, and has a limit of its own.
  local held = redis.call('HLEN', base .. ':records') - redis.call('ZCARD', base .. ':failed')
  if most > 0 and held + count > most or heaviest > 0 and weighs + bytes > heaviest then return 'FULL' end
end

-- Takes the commit in ARGV[first] to ARGV[last]; ``put`` gives each of its tasks a place.
local function take(first, last, put)
  local fresh, count, bytes = {}, 0, 0
  for i = first + HEAD, last, VALUES do
    if not fresh[ARGV[i]] and redis.call('HEXISTS', base .. ':state', ARGV[i]) == 0 then
      fresh[ARGV[i]], count, bytes = i, count + 1, bytes + #ARGV[i + 1]
    end
  end
  local why = count > 0 and refusal(first, count, bytes)
  if why then return why end
  for i = first + HEAD, last, VALUES do
    if fresh[ARGV[i]] == i then put(store(ARGV, i)) end
  end
  return 'OK'
end

-- Stores every commit; returns their answers, and whether there is an 'OK' among them.
local function admit(put)
  local answers, stored, first = {}, false, 1
  while first < #ARGV do
    local last = first + HEAD - 1 + VALUES * tonumber(ARGV[first + HEAD - 1])
    -- An error is an answer to this commit alone: the others of this call have been stored, or will be.
    local done, answer = pcall(take, first, last, put)
    if answer == 'OK' then stored = true end
    if not done and type(answer) == 'string' then answer = {err = answer} end -- as Redis 6 has it
    answers[#answers + 1] = answer
    first = last + 1
  end
  return answers, stored
end
