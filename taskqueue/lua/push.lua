-- Store tasks and queue them: of each commit all or none. One that comes alone was taken before (see _alone.lua).
-- KEYS[1] the queue's list
-- ARGV and answers as in _together.lua
local answers, stored = admit(enqueue)
if stored then redis.call('PUBLISH', base, '') end
return answers
