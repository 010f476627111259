-- Show that a consumer lives, and see who else does.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] epoch
-- returns {'OK', {ids that it holds and that are to end now}, name, epoch, beat, name, epoch, beat, ...} of the other
-- consumers, or as in _lease.lua
local marked = {}
if redis.call('EXISTS', base .. ':marks') == 1 then
  for _, id in ipairs(redis.call('HKEYS', base .. ':marks')) do
    local task = load(id)
    if task and task[HOLDER] == ARGV[1] then table.insert(marked, id) end
  end
end
local reply = {'OK', marked}
redis.call('HINCRBY', me, 'beat', 1)
for _, name in ipairs(redis.call('SMEMBERS', base .. ':consumers')) do
  if name ~= ARGV[1] then
    local other = redis.call('HMGET', base .. ':consumer:' .. name, 'epoch', 'beat')
    if other[1] then
      table.insert(reply, name)
      table.insert(reply, other[1])
      table.insert(reply, other[2] or '')
    end
  end
end
return reply
