-- Stands behind _task.lua in every script that takes tasks out: with a full memory Redis refuses a script whose first
-- write could need more, and then a full queue could never be drained. This write needs none, and changes nothing.
redis.call('HDEL', base .. ':control', '')
