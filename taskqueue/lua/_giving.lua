-- Stands before _serve.lua: what a consumer is given, and what it is not.
local count, bytes, spoilt, reply = 0, 0, 0, {'OK'}
local function give(id, task, record)
  count, bytes = count + 1, bytes + #record
  reply[count + 2] = {id, record, task[DELIVERY], task[ATTEMPT], task[CRASHES]}
end

-- Who has just heard that something waits need not come: this consumer has taken all there was.
local function tell_others(count)
  if count == 0 or redis.call('SCARD', base .. ':consumers') < 2 then return end
  if redis.call('EXISTS', base, unpack(others)) == 0 then redis.call('PUBLISH', base, 'taken') end
end

-- A ghost is at rest now; any other task that is rightly somewhere else stays there.
local function pass_over(id, task)
  if task and is(task, GHOST) then
    lay(task)
    put(id, task)
  elseif not task or task[STATE] == 'queued' then
    set_aside(id, task)
  end
end

-- Gives again what was handed to this consumer while it waited, and what it may not have heard of.
local function give_again(id)
  local task = load(id)
  local held = task and task[HOLDER] == ARGV[1] and (task[STATE] == 'reserved' or task[STATE] == 'running')
  local record = held and redis.call('HGET', RECORDS, id)
  if record then give(id, task, record) end
end
