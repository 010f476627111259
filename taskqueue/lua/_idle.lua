-- Stands before the scripts in which a consumer begins to wait, or waits no more. Who has asked for tasks and found none
-- may be handed one that comes later, as a late answer: it stands in :idle by the time it asked, and its lease has
-- ``handed``: '' or the id of that one.
local IDLE = base .. ':idle'

local function wait_no_more(consumer)
  redis.call('ZREM', IDLE, consumer)
  redis.call('HDEL', base .. ':consumer:' .. consumer, 'handed')
end
