-- Stands before the scripts that store new tasks. Commits that come at once travel together, and each is taken as if it
-- had come alone: all of its tasks or none.
-- ARGV for each commit: not after, ms; tasks and bytes of records that the queue may hold, 0 for no limit; how many tasks
--      follow; then for each task its values (see store)
-- Answers for each commit: 'OK'; 'LATE': the clock has passed its time, and the producer has given up and said so;
-- 'FULL': it would be too much; 'CLOSED': the queue takes no tasks any more; or the error that Redis has raised.
-- An id that is known already is left as it is: a repeat after a lost reply changes nothing, and is never late or full.
local HEAD = 4

-- Whether the queue is closed, and how many tasks count for the limit: looked for once, and counted on.
local closed, held
local function refusal(first, count, bytes)
  local most, heaviest = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  if at > tonumber(ARGV[first]) then return 'LATE' end
  if not held then
    local control = redis.call('HMGET', CONTROL, 'closed', 'bytes')
    closed, weight = control[1], tonumber(control[2] or 0)
    -- What has failed is kept for people, and has a limit of its own.
    held = redis.call('HLEN', RECORDS) - redis.call('ZCARD', base .. ':failed')
  end
  if closed then return 'CLOSED' end
  if most > 0 and held + count > most or heaviest > 0 and weight + bytes > heaviest then return 'FULL' end
  held = held + count
end

-- Takes the commit in ARGV[first] to ARGV[last]; ``place`` gives each of its tasks a place.
local function take(first, last, place)
  local fresh, count, bytes = {}, 0, 0
  for i = first + HEAD, last, VALUES do
    if not fresh[ARGV[i]] and not exists(ARGV[i]) then
      fresh[ARGV[i]], count, bytes = i, count + 1, bytes + #ARGV[i + 1]
    end
  end
  local why = count > 0 and refusal(first, count, bytes)
  if why then return why end
  for i = first + HEAD, last, VALUES do
    if fresh[ARGV[i]] == i then place(store(ARGV, i)) end
  end
  return 'OK'
end

-- Raises Redis's own error if something has been gathered for a key that holds another kind of value.
local function try()
  local counting = {HSET = 'HLEN', ZADD = 'ZCARD', LPUSH = 'LLEN'}
  for _, move in ipairs(arriving) do redis.call(counting[move[1]], move[2]) end
end

-- Forgets what has been gathered, and what has been looked at meanwhile.
local function drop()
  arriving, changed, known, weight, counted, held = {}, {}, {}, nil, nil, nil
end

local function take_all(commits, answers, first, last, place)
  for i = first, last do answers[i] = take(commits[i][1], commits[i][2], place) end
  if first < last then try() end
  flush()
end

-- Mostly nothing stands in the way, and all are written at once. Otherwise each comes alone: an error is an answer to this
-- commit, and the others of this call have been stored, or will be.
local function answer(commits, answers, first, last, place)
  local done, why = pcall(take_all, commits, answers, first, last, place)
  if done then return end
  drop()
  if first == last then
    answers[first] = type(why) == 'string' and {err = why} or why -- text is what Redis 6 has
  else
    for i = first, last do answer(commits, answers, i, i, place) end
  end
end

-- Stores every commit; returns their answers, and whether there is an 'OK' among them.
local function admit(place)
  local commits, ids, answers, stored, first = {}, {}, {}, false, 1
  while first < #ARGV do
    local last = first + HEAD - 1 + VALUES * ARGV[first + HEAD - 1]
    for i = first + HEAD, last, VALUES do ids[#ids + 1] = ARGV[i] end
    commits[#commits + 1], first = {first, last}, last + 1
  end
  look(ids)
  answer(commits, answers, 1, #commits, place)
  for _, one in ipairs(answers) do stored = stored or one == 'OK' end
  return answers, stored
end
