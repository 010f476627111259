-- Stands before the scripts in which a consumer waits, or waits no more. Who has asked for tasks and found none may be
-- handed one that comes later, as a late answer. It stands in :idle, with the token of its question, by the time it asked,
-- and its lease says that it ``waits``. What it is handed stands in :handed until it asks again, so that whoever adds tasks
-- needs no right on what consumers hold.
local IDLE, HANDED = base .. ':idle', base .. ':handed'

-- Returns the id of what was handed to this consumer, if anything was: from now on it is among what it has reserved.
local function wait_no_more(consumer, token)
  redis.call('HDEL', base .. ':consumer:' .. consumer, 'waits')
  redis.call('ZREM', IDLE, consumer .. ':' .. token)
  local id = redis.call('HGET', HANDED, consumer)
  if not id then return end
  redis.call('LPUSH', base .. ':reserved:' .. consumer, id)
  redis.call('HDEL', HANDED, consumer)
  return id
end
