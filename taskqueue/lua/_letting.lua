-- Stands before _settle.lua: how a consumer lets go of what it held.

-- Takes ids out of what this consumer holds. Each is looked for alone only where much else is held: then it would take
-- longer to write down anew what stays.
local function let_go(ids)
  if #ids == 1 or #ids * 8 < redis.call('LLEN', reserved) then
    for _, id in ipairs(ids) do redis.call('LREM', reserved, -1, id) end
    return
  end
  local held, gone = redis.call('LRANGE', reserved, 0, -1), {}
  for _, id in ipairs(ids) do gone[id] = true end
  for i = #held, 1, -1 do
    -- Of an id that stands there twice, only the one goes that was reserved first.
    if gone[held[i]] then held[i], gone[held[i]] = false, nil end
  end
  for _, id in ipairs(held) do
    if id then gather(arriving, 'RPUSH', reserved, id) end
  end
  flush()
  redis.call('LTRIM', reserved, #held, -1)
end
