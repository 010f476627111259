-- Stands before push: hands a task that comes alone to a consumer that waits.

-- What is larger goes into its line: it would fill the buffer of a subscriber that is slow to read.
local LARGEST = 65536

-- Returns the consumer that has waited longest, and the token of its question, if it may have this task now. What stands
-- in a line goes first.
local function taker(task, record)
  if task[DUE] > at or #record > LARGEST then return end
  local name = redis.call('ZRANGE', IDLE, 0, 0)[1]
  if not name or redis.call('EXISTS', base, unpack(others)) > 0 or allowed(1) < 1 then return end
  local token = redis.call('HGET', base .. ':consumer:' .. name, 'token')
  if token then return name, token end
end

-- Answers the question late; returns whether anybody has heard it.
local function tell(name, token, id, task, record)
  redis.call('ZREM', IDLE, name)
  redis.call('HSET', base .. ':consumer:' .. name, 'handed', id)
  local answer = {token, id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]}
  return redis.call('PUBLISH', base .. ':to:' .. name, cmsgpack.pack(answer)) > 0
end

-- Whoever waited has gone: the task is queued, as if it had never been handed to anybody.
local function take_back(name, id, task)
  redis.call('HDEL', base .. ':consumer:' .. name, 'handed')
  task[ATTEMPT] = 0
  enqueue(id, task)
  gather(leaving, 'LREM', base .. ':reserved:' .. name, 1, id)
  flush()
end
