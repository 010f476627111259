-- Stands before the scripts of an operator: what was done to a task is kept in its log, with the time and by whom.
local function act(id, what, actor)
  redis.call('HSET', base .. ':log:' .. id, 'act:' .. at .. ':' .. what, actor)
end
