-- Stands before _together.lua: takes one commit, if it may come in.
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
