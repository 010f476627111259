-- Stands before the scripts that give back what a consumer held: to the front of the line, in the order it had.
-- Returns how many were given back, at most 200, and how many are left. ``begins``: '1' if the application notes the
-- start of each delivery; what had not begun has spent nothing, and where nobody notes it, everything may have begun.
local function give_back(consumer, begins)
  local reserved = base .. ':reserved:' .. consumer
  local ids = redis.call('LRANGE', reserved, 0, 199)
  look(ids)
  for _, id in ipairs(ids) do
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
        gather(arriving, 'RPUSH', line(task[PRIORITY]), id)
        save(id, task, 'queued')
      end
    end
  end
  flush()
  redis.call('LTRIM', reserved, #ids, -1)
  if #ids > 0 then redis.call('PUBLISH', base, '') end
  return #ids, redis.call('LLEN', reserved)
end
