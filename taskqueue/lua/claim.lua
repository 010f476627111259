-- Take a consumer's name; give back to the front of the line, in order, what that name had reserved.
-- KEYS[1] the queue's list
-- ARGV[1] consumer, [2] 16 random hex digits, [3] host, [4] pid, [5] boot id, [6] start time,
--      [7] '1' if the application notes the start of each delivery (begin)
-- returns {epoch, how many were given back, how many are left}: repeat with the same arguments until none is left.
-- From here on every call with an older epoch answers FENCED. The random part makes an epoch unique even if Redis lost
-- its data and counts from one again.
local me, reserved = base .. ':consumer:' .. ARGV[1], base .. ':reserved:' .. ARGV[1]
local epoch = redis.call('HGET', me, 'epoch') or '0-'
local number, random = string.match(epoch, '^(%d+)-(.*)$')
if random ~= ARGV[2] then
  epoch = (number or 0) + 1 .. '-' .. ARGV[2]
  redis.call('HSET', me, 'epoch', epoch, 'host', ARGV[3], 'pid', ARGV[4], 'boot', ARGV[5], 'start', ARGV[6],
    'begins', ARGV[7], 'claimed', at, 'token', '', 'count', 0)
  redis.call('SADD', base .. ':consumers', ARGV[1])
end
local returned = 0
while returned < 500 do
  local id = redis.call('LINDEX', reserved, 0)
  if not id then break end
  local task = load(id)
  if not task then
    set_aside(id)
  elseif task[HOLDER] == ARGV[1] and (task[STATE] == 'reserved' or task[STATE] == 'running') then
    -- What had not begun has spent nothing; where nobody notes beginnings, everything may have begun.
    local begun = task[STATE] == 'running' or ARGV[7] ~= '1'
    if begun then task[CRASHES] = task[CRASHES] + 1 else task[ATTEMPT] = task[ATTEMPT] - 1 end
    redis.call('RPUSH', base, id)
    save(id, task, 'queued')
  end
  redis.call('LPOP', reserved)
  returned = returned + 1
end
if returned > 0 then redis.call('PUBLISH', base, '') end
return {epoch, returned, redis.call('LLEN', reserved)}
