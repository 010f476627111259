-- Stands before every script, behind _task.lua. What is to be written is gathered, and flush makes one command of all
-- that goes the same way into one key. The destinations are written before the sources are left, because an error in
-- mid-script does not undo what was written.

-- Where tasks come to, and what they leave: commands in the order in which each was first needed, and by their keys.
local arriving, leaving = {}, {}
local function gather(moves, command, key, value, other)
  local move = moves[key]
  if move and move[1] == command then
    local last = #move
    move[last + 1], move[last + 2] = value, other
  else
    move = {command, key, value, other}
    moves[key], moves[#moves + 1] = move, move
  end
end

local function carry_out(move)
  if #move <= WIDE then return redis.call(unpack(move)) end
  for i = 3, #move, WIDE do
    redis.call(move[1], move[2], unpack(move, i, math.min(i + WIDE - 1, #move)))
  end
end

-- The bytes of all records: read once, counted here, and written by flush as ``counted`` says. And which records go.
local weight, counted
local dropped = {}
local function weigh(change)
  weight = weight or tonumber(redis.call('HGET', CONTROL, 'bytes') or 0)
  weight, counted = weight + change, 'HSET'
  return weight
end

local function flush()
  for _, id in ipairs(changed) do
    if known[id] then gather(arriving, 'HSET', STATES, id, cmsgpack.pack(known[id])) end
  end
  for _, move in ipairs(arriving) do carry_out(move) end
  if counted == 'HSET' then redis.call('HSET', CONTROL, 'bytes', weight) end
  if counted == 'HDEL' then redis.call('HDEL', CONTROL, 'bytes') end
  for _, move in ipairs(leaving) do carry_out(move) end
  arriving, leaving, changed, dropped, counted = {}, {}, {}, {}, nil
end
