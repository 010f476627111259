-- Stands before every script that takes tasks out: with a full memory Redis refuses a script whose first write could
-- need more, and then a full queue could never be drained. This write needs none, and changes nothing.
redis.call('HDEL', base .. ':control', '')

local function drop_record(id)
  local size = redis.call('HSTRLEN', base .. ':records', id)
  if redis.call('HDEL', base .. ':records', id) == 0 then return end
  local left = redis.call('HINCRBY', base .. ':control', 'bytes', 0 - size)
  if left <= 0 then redis.call('HDEL', base .. ':control', 'bytes') end
end
