-- Stands before _settle.lua: what the end of a delivery makes of its task. following: what is queued when the task has
-- completed, and when it has failed, each packed (see follow) or ''.

local function complete(id, task, response, following)
  local log = base .. ':log:' .. id
  if ARGV[7] == '1' then log_record(id) end
  if response ~= '' then
    redis.call('HSET', log, 'response', response)
  elseif task[DELIVERY] > 1 then
    -- That of an earlier delivery, which did not complete.
    redis.call('HDEL', log, 'response')
  end
  if task[OPEN] > 0 and not is(task, MASTER) then
    redis.call('HDEL', log, 'completed', 'failed')
    if following[1] ~= '' then redis.call('HSET', log, 'completed', following[1]) end
    if following[2] ~= '' then redis.call('HSET', log, 'failed', following[2]) end
    log_ending(id, task, 'waiting')
    return list_in(id, task, 'waiting')
  end
  -- A master's own end counts; of another's children one may have failed before it ended itself.
  if task[SPOILT] > 0 and not is(task, MASTER) then
    fail(id, task, 'children')
    if following[2] ~= '' then follow(following[2]) end
    return
  end
  conclude(id, task, 'completed')
  drop_record(id)
  if following[1] ~= '' then follow(following[1]) end
end

local function fall(id, task, kind, delay, response, following)
  log_ending(id, task, kind)
  if response ~= '' then redis.call('HSET', base .. ':log:' .. id, 'response', response) end
  if kind == 'retry' then
    task[DUE] = at + delay
    return list_in(id, task, 'scheduled')
  end
  fail(id, task, task[REASON])
  if following[2] ~= '' then follow(following[2]) end
end
