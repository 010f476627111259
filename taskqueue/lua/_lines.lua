-- Stands before exchange: the lines in which tasks wait, and to whom one belongs that is given out.
local others = {}
for priority = 9, 0, -1 do
  if priority ~= NORMAL then others[#others + 1] = line(priority) end
end

local function hand_over(id, task, consumer)
  task[DELIVERY], task[ATTEMPT] = task[DELIVERY] + 1, task[ATTEMPT] + 1
  task[RESERVED], task[BEGUN], task[HOLDER], task[TOKEN] = at, 0, consumer, ''
  save(id, task, 'reserved')
end
