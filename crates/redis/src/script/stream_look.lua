-- Where a stream stands, and a part of it, in one step.
--
-- ARGV: 6 which part: 'none', 'after' an id, or the 'newest'; 7 the id, 8 the one after it, 9 the most
--       entries, 10 about the most bytes, 11 the most bytes of an entry, 12… the fields that count
--       (none: all).
-- Answers {epoch, base}, {last, first (or ''), deleted, added, length}, {whether an entry stands at 7 or 8,
-- whether there is more, the mark of the last entry (the part's, where there is more)}, and the entries:
-- id and fields, or 0 where it is too large.

local at = stand()
if at.err then return at end
local which, id, count, most, largest = ARGV[6], ARGV[7], tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local wanted = {}
for i = 12, #ARGV do wanted[ARGV[i]] = true end

-- The fields that count, and their size.
local function kept(fields)
  local out, size = {}, 0
  for i = 1, #fields, 2 do
    if #ARGV < 12 or wanted[fields[i]] then
      out[#out + 1] = fields[i]
      out[#out + 1] = fields[i + 1]
      size = size + #fields[i] + #fields[i + 1]
    end
  end
  if size > largest then return 0, 0 end
  return out, size
end

local out, bytes, more = {}, 0, false

-- Answers whether there is room for another one.
local function add(entry)
  local fields, size = kept(entry[2])
  if #out > 0 and (#out >= count or bytes + size > most) then
    more = true
    return false
  end
  bytes = bytes + size
  out[#out + 1] = {entry[1], fields}
  return true
end

-- Walks in steps, so that no more is taken up at once than is answered.
local function walk(command, from, to)
  local step = 16
  while not more do
    local got = redis.call(command, stream, from, to, 'COUNT', step)
    for i = 1, #got do
      if not add(got[i]) then break end
      from = '(' .. got[i][1]
    end
    if #got < step then break end
    step = math.min(step * 2, 128)
  end
end

local found = 0
if which == 'after' and before(id, at.last) then
  if #redis.call('XRANGE', stream, id, ARGV[8], 'COUNT', 1) > 0 then found = 1 end
  walk('XRANGE', '(' .. id, '+')
elseif which == 'newest' then
  walk('XREVRANGE', '+', '-')
end

local upto = at.last
if more and which == 'after' then upto = out[#out][1] end
return {{at.epoch, at.base}, {at.last, at.first or '', at.deleted, at.added, at.length},
  {found, more and 1 or 0, mark(upto)}, out}
