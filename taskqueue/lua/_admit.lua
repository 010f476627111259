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
    closed = redis.call('HEXISTS', CONTROL, 'closed') == 1
    -- What has failed is kept for people, and has a limit of its own.
    held = redis.call('HLEN', RECORDS) - redis.call('ZCARD', base .. ':failed')
  end
  if closed then return 'CLOSED' end
  if most > 0 and held + count > most or heaviest > 0 and weigh() + bytes > heaviest then return 'FULL' end
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
local COUNTS = {HSET = 'HLEN', ZADD = 'ZCARD', LPUSH = 'LLEN'}
local function try()
  for _, move in ipairs(arriving) do redis.call(COUNTS[move.command], move.key) end
end

-- Forgets what has been gathered, and what has been looked at meanwhile.
local function drop()
  arriving, changed, known, weight, counted, held = {}, {}, {}, nil, nil, nil
end

-- Stores every commit; returns their answers, and whether there is an 'OK' among them.
local function admit(place)
  local commits, ids, answers, stored, first = {}, {}, {}, false, 1
  while first < #ARGV do
    local last = first + HEAD - 1 + VALUES * tonumber(ARGV[first + HEAD - 1])
    for i = first + HEAD, last, VALUES do ids[#ids + 1] = ARGV[i] end
    commits[#commits + 1], first = {first, last}, last + 1
  end
  look(ids)
  local function take_all(from, to)
    for i = from, to do answers[i] = take(commits[i][1], commits[i][2], place) end
    if from < to then try() end
    flush()
  end
  -- Mostly nothing stands in the way, and all are written at once. Otherwise each comes alone: an error is an answer to
  -- this commit, and the others of this call have been stored, or will be.
  local function answer(from, to)
    local done, why = pcall(take_all, from, to)
    if done then return end
    drop()
    if from == to then
      answers[from] = type(why) == 'string' and {err = why} or why -- text is what Redis 6 has
    else
      for i = from, to do answer(i, i) end
    end
  end
  answer(1, #commits)
  for _, one in ipairs(answers) do stored = stored or one == 'OK' end
  return answers, stored
end
