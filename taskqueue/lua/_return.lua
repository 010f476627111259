-- Stands before the scripts that give back what a consumer held: to the front of the line, in the order it had.
-- Returns how many were given back, at most 200, and how many are left. ``begins``: '1' if the application notes the
-- start of each delivery; what had not begun has spent nothing, and where nobody notes it, everything may have begun.
local function give_back(consumer, begins)
  local reserved, returned = base .. ':reserved:' .. consumer, 0
  while returned < 200 do
    local id = redis.call('LINDEX', reserved, 0)
    if not id then break end
    local task = load(id)
    if not task then
      set_aside(id)
    elseif task[HOLDER] == consumer and (task[STATE] == 'reserved' or task[STATE] == 'running') then
      local mark, begun = mark_of(id), task[STATE] == 'running' or begins ~= '1'
      if begun then task[CRASHES] = task[CRASHES] + 1 else task[ATTEMPT] = task[ATTEMPT] - 1 end
      log_release(id, 'lost', consumer)
      if mark then
        obey(id, task, mark)
      else
        redis.call('RPUSH', line(task[PRIORITY]), id)
        save(id, task, 'queued')
      end
    end
    redis.call('LPOP', reserved)
    returned = returned + 1
  end
  if returned > 0 then redis.call('PUBLISH', base, '') end
  return returned, redis.call('LLEN', reserved)
end
