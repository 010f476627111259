-- Cancel or archive tasks.
-- KEYS[1] the queue's list
-- ARGV[1] 'cancelled' or 'archived', [2] '1' to reach what is under way too, [3] who does it; then ids
-- returns for each: the word, 'marked' (its holder will obey at its next beat), 'unknown', or the state that stood in the
-- way. What waited keeps its place in the line as a ghost, because to find it there would take long; whoever comes to it
-- lays it to rest.
local word, forced, reply = ARGV[1], ARGV[2] == '1', {}
local function away(id, task)
  local state = task[STATE]
  if state == 'queued' then
    task[FLAGS] = task[FLAGS] + GHOST
    redis.call('HINCRBY', CONTROL, 'ghosts', 1)
  end
  if state == 'completed' then
    -- Of all ends this one stands in the state alone, which now is another.
    redis.call('HSET', base .. ':log:' .. id, string.format('act:%d:completed', task[CHANGED]), task[HOLDER])
  end
  act(id, word, ARGV[3])
  if not ENDED[state] then conclude(id, task, word) else list_in(id, task, word) end
  log_record(id)
  if INDEX[state] then gather(leaving, 'ZREM', base .. INDEX[state], id) end
  flush()
  return word
end
local function withdraw(id)
  local task = load(id)
  local state = task and task[STATE]
  if not task then return 'unknown' end
  if state == 'queued' or state == 'scheduled' then return away(id, task) end
  if state == 'reserved' or state == 'running' then
    if not forced then return state end
    act(id, 'marked', ARGV[3])
    redis.call('HSET', base .. ':marks', id, word)
    return 'marked'
  end
  if state == 'waiting' then return (forced or word == 'cancelled') and away(id, task) or state end
  local ended = state == 'completed' or state == 'failed' or state == 'cancelled'
  return ended and word == 'archived' and away(id, task) or state
end
for i = 4, #ARGV do reply[i - 3] = withdraw(ARGV[i]) end
return reply
