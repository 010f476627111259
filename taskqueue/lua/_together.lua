-- Stands before the scripts that store new tasks. Commits that come at once travel together, and each is taken as if it
-- had come alone: all of its tasks or none.
-- ARGV for each commit: not after, ms; tasks and bytes of records that the queue may hold, 0 for no limit; how many tasks
--      follow; then for each task its values (see store)
-- Answers for each commit: 'OK'; 'LATE': the clock has passed its time, and the producer has given up and said so;
-- 'FULL': it would be too much; 'CLOSED': the queue takes no tasks any more; or the error that Redis has raised.
-- An id that is known already is left as it is: a repeat after a lost reply changes nothing, and is never late or full.

-- Raises Redis's own error if something has been gathered for a key that holds another kind of value.
local function try()
  for _, move in ipairs(arriving) do
    if move[1] == 'HSET' then redis.call('HLEN', move[2]) end
    if move[1] == 'ZADD' then redis.call('ZCARD', move[2]) end
    if move[1] == 'LPUSH' then redis.call('LLEN', move[2]) end
  end
end

-- Forgets what has been gathered, and what has been looked at meanwhile.
local function drop()
  arriving, changed, known, weight, counted, held = {}, {}, {}, nil, nil, nil
end

local function take_all(commits, answers, first, last, place)
  for i = first, last do answers[i] = take(commits[i][1], commits[i][2], place) end
  -- Of one task alone nothing is written before the one place that may be somebody else's.
  if #changed > 1 then try() end
  flush()
end

-- Mostly nothing stands in the way, and all are written at once. Otherwise each comes alone: an error is an answer to
-- this commit, and the others of this call have been stored, or will be.
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
