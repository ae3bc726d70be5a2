-- The ways to place eight queens on a board so that none attacks another.
local size, ways = 8, 0
local columns, rising, falling = {}, {}, {}

local function place(row)
  if row > size then
    ways = ways + 1
    return
  end
  for column = 1, size do
    local up, down = row + column, row - column
    if not (columns[column] or rising[up] or falling[down]) then
      columns[column], rising[up], falling[down] = true, true, true
      place(row + 1)
      columns[column], rising[up], falling[down] = nil, nil, nil
    end
  end
end

place(1)
assert(ways == 92)
print(("%d queens: %d ways"):format(size, ways))
