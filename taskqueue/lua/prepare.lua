-- Store tasks without queueing them, of each commit all or none: the vote of a two-phase commit.
-- KEYS[1] the queue's list
-- ARGV and answers as in _together.lua
return (admit(function(id, task) list_in(id, task, 'prepared') end))
