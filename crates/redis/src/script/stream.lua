-- Where a foreign stream stands, and which life of it this is.
--
-- KEYS: 1 the stream, 2 its record, 3 home.
-- ARGV: 1 a fresh epoch, 2 how long a record is kept, in ms, 3 to 5 what the caller has seen: epoch,
--       id, and the mark of the entry there.
--
-- A stream of others has no epoch. Home holds the epoch of every stream's first life. The record
-- (hash) holds what any node saw last: epoch, last (id), added (entries-added), mark (of the entry
-- there). A stream that does not hold what was seen, although neither trimming nor XDEL can have taken
-- it, is another life: its epoch is a fresh one.

local stream, record, home = KEYS[1], KEYS[2], KEYS[3]
local ZERO = '0-0'

local function before(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end

-- What tells an entry from another of the same id; '' where there is none.
local function mark(id)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then return '' end
  local fields = entry[2]
  local parts = {#fields}
  for i = 1, math.min(#fields, 128) do
    parts[#parts + 1] = #fields[i]
    parts[#parts + 1] = string.sub(fields[i], 1, 256)
  end
  return string.sub(redis.sha1hex(table.concat(parts, ' ')), 1, 16)
end

local function facts()
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    if string.find(info.err, 'no such key', 1, true) then
      return {last = ZERO, deleted = ZERO, added = 0, length = 0}
    end
    return info
  end
  local at = {}
  for i = 1, #info, 2 do at[info[i]] = info[i + 1] end
  local first = at['first-entry']
  return {
    last = at['last-generated-id'],
    first = first and first[1],
    deleted = at['max-deleted-entry-id'],
    added = at['entries-added'],
    length = at['length'],
  }
end

-- Whether this is not the stream in which an entry with this mark stood at an id.
local function is_other(at, id, seen)
  if before(at.last, id) then return true end
  local may_be_gone = not at.first or before(id, at.first) or not before(at.deleted, id)
  if seen == '' or may_be_gone then return false end
  return mark(id) ~= seen
end

-- Whether this is not the stream that had so many entries up to an id: all of them lie before the oldest
-- that is there, and fewer than these are gone.
local function is_made_again(at, id, added)
  return at.first and before(id, at.first) and at.added - at.length < added
end

local function stand()
  local at = facts()
  if at.err then return at end
  at.base = redis.call('GET', home)
  if not at.base then
    at.base = ARGV[1]
    redis.call('SET', home, at.base)
  end
  local held = redis.call('HMGET', record, 'epoch', 'last', 'added', 'mark')
  at.epoch = held[1] or at.base
  local added = tonumber(held[3] or 0)
  local other = held[1] and (is_other(at, held[2], held[4]) or at.added < added
    or is_made_again(at, held[2], added))
  if not other and ARGV[3] == at.epoch then other = is_other(at, ARGV[4], ARGV[5]) end
  if other then
    -- Two lives never share an epoch.
    at.epoch = (ARGV[1] == at.epoch or ARGV[1] == at.base) and ARGV[1] .. '1' or ARGV[1]
  end
  if other or (held[2] or ZERO) ~= at.last then
    -- A server that takes no writes can still be read: what it holds was seen before.
    local wrote = redis.pcall('HSET', record, 'epoch', at.epoch, 'last', at.last,
      'added', at.added, 'mark', mark(at.last))
    if type(wrote) == 'table' and wrote.err then
      if other then return wrote end
    else
      redis.pcall('PEXPIRE', record, ARGV[2])
    end
  elseif held[1] and redis.call('PTTL', record) < tonumber(ARGV[2]) / 2 then
    redis.pcall('PEXPIRE', record, ARGV[2])
  end
  return at
end
