-- Stands before _alone.lua: where a task that comes alone goes; into its line, or to a consumer that waits.
local LARGEST = 65536

-- Returns who has waited longest, as it stands in :idle. What is in a line goes first; and a large record goes into its
-- line: it would fill the buffer of a subscriber that is slow to read.
local function waiting()
  local first = #ARGV[6] <= LARGEST and redis.call('ZRANGE', base .. ':idle', 0, 0)[1]
  local lines = {base}
  for priority = 0, 9 do lines[priority + 2] = base .. ':p' .. priority end
  return first and redis.call('EXISTS', unpack(lines)) == 0 and first
end

local function put(state, delivery, attempt, reserved, holder)
  redis.call('HSET', STATES, ARGV[5], cmsgpack.pack({state, delivery, attempt, 0, at, 0, reserved, 0, at, 0, '', holder, '',
    ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13], ARGV[14], tonumber(ARGV[15]), 0, 0}))
end

local function queue(delivery, reserved, holder)
  redis.call('LPUSH', tonumber(ARGV[11]) == NORMAL and base or base .. ':p' .. ARGV[11], ARGV[5])
  put('queued', delivery, 0, reserved, holder)
  redis.call('PUBLISH', base, '')
end

-- Answers late what a consumer has asked. If it has gone, and nobody hears it, the task is queued.
local function hand_over(first)
  local name, token = string.match(first, '^(.*):(.*)$')
  redis.call('HSET', base .. ':handed', name, ARGV[5])
  put('reserved', 1, 1, at, name)
  redis.call('ZREM', base .. ':idle', first)
  local answer = {token, ARGV[5], ARGV[6], 1, 1, 0}
  if redis.call('PUBLISH', base .. ':to:' .. name, cmsgpack.pack(answer)) == 0 then
    queue(1, at, name)
    redis.call('HDEL', base .. ':handed', name)
  end
end
