-- Stands before push: hands a task that comes alone to a consumer that waits.

-- What is larger goes into its line: it would fill the buffer of a subscriber that is slow to read.
local LARGEST = 65536

-- Returns the consumer that has waited longest, if it may have this task now, and as it stands in :idle. What waits in a
-- line goes first; and where only so many may be held, those who hold them are counted when one of them asks.
local function taker(task, record)
  if task[DUE] > at or #record > LARGEST then return end
  local waiting = redis.call('ZRANGE', IDLE, 0, 0)[1]
  if not waiting or redis.call('EXISTS', base, unpack(others)) > 0 then return end
  local control = redis.call('HMGET', CONTROL, 'slowed', 'paused', 'disabled', 'limit')
  if at < tonumber(control[1] or 0) or control[2] or control[3] or control[4] then return end
  return string.match(waiting, '^(.*):'), waiting
end

-- Answers its question late; returns whether anybody has heard it.
local function tell(name, waiting, id, task, record)
  redis.call('HSET', HANDED, name, id)
  redis.call('ZREM', IDLE, waiting)
  local answer = {string.match(waiting, ':(.*)$'), id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]}
  return redis.call('PUBLISH', base .. ':to:' .. name, cmsgpack.pack(answer)) > 0
end

-- Whoever waited has gone: the task is queued, as if it had never been handed to anybody.
local function take_back(name, id, task)
  task[ATTEMPT] = 0
  enqueue(id, task)
  flush()
  redis.call('HDEL', HANDED, name)
end
