-- Store tasks without queueing them, all or none: the vote of a two-phase commit.
-- KEYS[1] the queue's list
-- ARGV as in _admit.lua
-- returns 'OK', or as in _admit.lua
for i = 4, #ARGV, VALUES do
  local id, task = admit(i)
  if id then list_in(id, task, 'prepared') end
end
return 'OK'
