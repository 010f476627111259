-- Stands before exchange: gives tasks to a consumer, from the front of the lines.

-- Returns the lines that are not empty, of the highest priority first: mostly it is one look for nine of them.
local function lines_in_use()
  if redis.call('EXISTS', unpack(others)) == 0 then return {base} end
  local all = {unpack(others)}
  table.insert(all, 6, base)
  return all
end

-- Returns ids and records of the first of these tasks, the front of a line: as many as may be given, and one more.
local function fetch(ids)
  local first, sum = {}, bytes
  for i = #ids, 1, -1 do
    first[#first + 1] = ids[i]
    sum = sum + (i > 1 and redis.call('HSTRLEN', RECORDS, ids[i]) or 0)
    if sum > tonumber(ARGV[5]) then break end
  end
  return first, redis.call('HMGET', RECORDS, unpack(first))
end

-- Gives out the front of a line, these ids; returns whether there may be more to give, from this line or another.
local function serve(from, ids)
  look(ids)
  local first, records = fetch(ids)
  local done, more = 0
  for i, id in ipairs(first) do
    local task, record = load(id), records[i]
    local sound = task and task[STATE] == 'queued' and record
    more = spoilt < 100 and not (sound and count > 0 and bytes + #record > tonumber(ARGV[5]))
    if not more then break end
    if sound then
      hand_over(id, task, ARGV[1])
      gather(arriving, 'LPUSH', reserved, id)
      give(id, task, record)
    else
      pass_over(id, task)
      spoilt = spoilt + 1
    end
    done = i
  end
  flush()
  redis.call('LTRIM', from, 0, -1 - done)
  return more
end
