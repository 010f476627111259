-- Take a consumer's name; give back to the front of the line, in order, what that name had reserved.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] 16 random hex digits, [3] host, [4] pid, [5] boot id, [6] start time,
--      [7] '1' if the application notes the start of each delivery (begin), [8] epoch and [9] beat of the owner that
--      the caller has found dead, both '' for a free name; [8] '*' to take it from whoever has it
-- returns {epoch, how many were given back, how many are left}: repeat with the same arguments until none is left;
--         {'DISABLED'} if nobody is to serve this queue;
--         or {'TAKEN'} if the owner is another one, or has shown that it lives.
-- From here on every call with an older epoch answers FENCED. The random part makes an epoch unique even if Redis lost
-- its data and counts from one again.
local me = base .. ':consumer:' .. ARGV[1]
if redis.call('HEXISTS', CONTROL, 'disabled') == 1 then return {'DISABLED'} end
local owner = redis.call('HMGET', me, 'epoch', 'beat', 'token')
local epoch = owner[1] or ''
local number, random = string.match(epoch, '^(%d+)-(.*)$')
if random ~= ARGV[2] then
  local found = epoch == ARGV[8] and (owner[2] or '') == ARGV[9]
  if ARGV[8] ~= '*' and not found then return {'TAKEN'} end
  epoch = (number or 0) + 1 .. '-' .. ARGV[2]
  wait_no_more(ARGV[1], owner[3] or '')
  redis.call('HSET', me, 'epoch', epoch, 'host', ARGV[3], 'pid', ARGV[4], 'boot', ARGV[5], 'start', ARGV[6],
    'begins', ARGV[7], 'claimed', at, 'beat', 0, 'token', '', 'count', 0)
  redis.call('PERSIST', me)
  redis.call('SADD', base .. ':consumers', ARGV[1])
end
local returned, left = give_back(ARGV[1], ARGV[7])
return {epoch, returned, left}
