-- Stands before push and exchange: what may be given out, and to whom it belongs then.

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

local function hand_over(id, task, consumer)
  task[DELIVERY], task[ATTEMPT] = task[DELIVERY] + 1, task[ATTEMPT] + 1
  task[RESERVED], task[BEGUN], task[HOLDER], task[TOKEN] = at, 0, consumer, ''
  gather(arriving, 'LPUSH', base .. ':reserved:' .. consumer, id)
  save(id, task, 'reserved')
end
