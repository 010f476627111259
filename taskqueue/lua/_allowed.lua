-- Stands before exchange: what may be given out.

-- Returns how many of ``n`` tasks may be given out now.
local function allowed(n)
  local control = redis.call('HMGET', CONTROL, 'slowed', 'paused', 'disabled', 'limit')
  -- An application that asked for patience (Retry-After) is left alone until then.
  if at < tonumber(control[1] or 0) or control[2] or control[3] then return 0 end
  if not control[4] then return n end
  -- The limit counts what all consumers hold, the dead included until they are found: it may still run.
  local held = #redis.call('HKEYS', HANDED)
  for _, name in ipairs(redis.call('SMEMBERS', base .. ':consumers')) do
    held = held + redis.call('LLEN', base .. ':reserved:' .. name)
  end
  return math.min(n, tonumber(control[4]) - held)
end
