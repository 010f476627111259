-- Store tasks and queue them: of each commit all or none. One that comes alone may be handed to a consumer that waits.
-- KEYS[1] the queue's list
-- ARGV and answers as in _together.lua
local id, record, name, waiting, handed = ARGV[HEAD + 1], ARGV[HEAD + 2]
local function place(new, task)
  if #ARGV == HEAD + VALUES then name, waiting = taker(task, record) end
  if not name then return enqueue(new, task) end
  handed = task
  hand_over(new, task, name)
end
local answers, stored = admit(place)
if stored and handed then
  if tell(name, waiting, id, handed, record) then return answers end
  take_back(name, id, handed)
end
if stored then redis.call('PUBLISH', base, '') end
return answers
