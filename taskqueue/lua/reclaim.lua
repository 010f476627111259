-- Take from a dead consumer what it had reserved, and fence it.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] 16 random hex digits, [3] the epoch and [4] the beat at which it was found dead
-- returns {how many were given back, how many are left}: repeat with the same arguments until none is left;
--         {0, 0} if the consumer has shown that it lives, or somebody else was quicker.
local me = base .. ':consumer:' .. ARGV[1]
local owner = redis.call('HMGET', me, 'epoch', 'beat', 'begins', 'token')
local number, random = string.match(owner[1] or '', '^(%d+)-(.*)$')
if random ~= ARGV[2] then
  if owner[1] ~= ARGV[3] or (owner[2] or '') ~= ARGV[4] then return {0, 0} end
  wait_no_more(ARGV[1], owner[4] or '')
  redis.call('HSET', me, 'epoch', (number or 0) + 1 .. '-' .. ARGV[2], 'token', '', 'count', 0)
end
local returned, left = give_back(ARGV[1], owner[3])
if left == 0 then
  -- The epoch stays for a day, so that the consumer, should it wake, is told that it was fenced.
  redis.call('PEXPIRE', me, 86400000)
  redis.call('SREM', base .. ':consumers', ARGV[1])
end
return {returned, left}
