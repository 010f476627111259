-- Stands before exchange: what may be given out, and to whom it belongs then.

-- Returns how many of ``n`` tasks may be given out now.
local function allowed(n)
  local control = redis.call('HMGET', CONTROL, 'slowed', 'paused', 'disabled', 'limit')
  -- An application that asked for patience (Retry-After) is left alone until then.
  if at < tonumber(control[1] or 0) or control[2] or control[3] then return 0 end
  if not control[4] then return n end
  -- The limit counts what all consumers hold, the dead included until they are found: it may still run.
  local held = 0
  for _, name in ipairs(redis.call('SMEMBERS', base .. ':consumers')) do
    held = held + redis.call('LLEN', base .. ':reserved:' .. name)
  end
  return math.min(n, tonumber(control[4]) - held)
end

local others = {}
for priority = 9, 0, -1 do
  if priority ~= NORMAL then others[#others + 1] = line(priority) end
end

-- Returns the lines that are not empty, of the highest priority first: mostly it is one look for nine of them.
local function lines_in_use()
  if redis.call('EXISTS', unpack(others)) == 0 then return {base} end
  local all = {unpack(others)}
  table.insert(all, 6, base)
  return all
end

-- Who has just heard that something waits need not come: this consumer has taken all there was.
local function tell_others(count)
  if count == 0 or redis.call('SCARD', base .. ':consumers') < 2 then return end
  if redis.call('EXISTS', base, unpack(others)) == 0 then redis.call('PUBLISH', base, 'taken') end
end

local function hand_over(id, task)
  task[DELIVERY], task[ATTEMPT] = task[DELIVERY] + 1, task[ATTEMPT] + 1
  task[RESERVED], task[BEGUN], task[HOLDER], task[TOKEN] = at, 0, ARGV[1], ''
  gather(arriving, 'LPUSH', reserved, id)
  save(id, task, 'reserved')
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
