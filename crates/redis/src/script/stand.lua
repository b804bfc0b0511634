-- Where a log stands; begins it where there is none, and begins a new epoch where the store went
-- back behind what the caller has seen, so that places would be given twice.
--
-- KEYS: 1 meta, 2 channels (zset: each channel's last offset).
-- ARGV: 1 layout, 2 a fresh epoch, 3 the run of this server ('' unknown),
--       4 to 6 what the caller has seen: epoch, offset, and on which run.
--
-- meta: layout, epoch, offset (the last place given), begin (the place where the epoch began),
-- forgotten (no channel that is not in the zset has an event after it), terms ("run base start …": the
-- servers that gave places, in turn; where the log stood when each took over, and from where on it
-- gives places), ended ("epoch run told by …": of epochs before this one, up to which place of which
-- server what was lost is told, and which run ended it), begun ("epoch from place …": the epochs, in
-- turn, and after which place of which epoch each tells a loss; 0 where nobody knows), holes ("after
-- next after next …": events after the one place and up to the other are missing that nobody can name).

local TERMS = 16
local HOLES = 32
local ENDED = 16
local BEGUN = 16
-- A server that takes over leaves out so many places at least, and up to as many more by chance: the
-- one before may go on giving places for a while, and no place may be given twice.
local APART = 10000000

local function text(number) return string.format('%.0f', number) end

-- Ends an epoch, or tells more of one that has ended: what callers saw of it up to `told`, on a server,
-- is told by the epoch that begins now.
local function note_end(ended, epoch, on, told, by)
  if on == '' then on = '-' end
  for _, one in ipairs(ended) do
    if one[1] == epoch and one[2] == on then
      one[3] = text(math.max(told, tonumber(one[3])))
      return
    end
  end
  ended[#ended + 1] = {epoch, on, text(told), by == '' and '-' or by}
  if #ended > ENDED then table.remove(ended, 1) end
end

local function join_ended(ended)
  local parts = {}
  for _, one in ipairs(ended) do parts[#parts + 1] = table.concat(one, ' ') end
  return table.concat(parts, ' ')
end

-- Whether the caller saw something of an epoch that had ended here, which another server took while
-- others had left that one, and were told too early to be told of it. What the server itself had given
-- when it ended the epoch, all who were told then are told. An epoch that is not known was begun on
-- another server, by somebody who had left this one's log; or, where one server alone gave places, it
-- is of a log that was lost before this one began.
local function is_untold(ended, terms, epoch, on, seen)
  if on == '' then on = '-' end
  for _, one in ipairs(ended) do
    if one[1] == epoch and (one[4] == on or one[2] == on and seen <= tonumber(one[3])) then return false end
  end
  return #terms > 1 and epoch ~= '0' and seen > 0
end

-- Where the log stood before it left out the place that the caller saw, if it never gave it: after
-- where it stands, or after another server took over.
local function left_at(stood, terms, seen)
  for _, term in ipairs(terms) do
    if seen > tonumber(term[2]) and seen < tonumber(term[3]) then return term[2] end
  end
  return seen > stood and text(stood) or nil
end

-- Begins an epoch, which tells a loss after a place of another.
local function begin(log, fresh, begun, from, place)
  if not place then from, place = '0', '0' end
  local known = {}
  for one in string.gmatch(begun, '%d+ %d+ %d+') do known[#known + 1] = one end
  known[#known + 1] = fresh .. ' ' .. from .. ' ' .. place
  log.epoch, log.begin = fresh, log.offset
  log.begun = table.concat(known, ' ', math.max(1, #known - BEGUN + 1))
  redis.call('HSET', KEYS[1], 'epoch', fresh, 'begin', text(log.begin), 'begun', log.begun)
end

-- Notes that a server takes over, if it does.
local function take_over(log, terms, run, fresh)
  local last = terms[#terms]
  if run == '' or last and last[1] == run then return end
  local base = log.offset
  log.offset = base + APART + tonumber(string.sub(fresh, -7))
  terms[#terms + 1] = {run, text(base), text(log.offset)}
  local parts = {}
  for i = math.max(1, #terms - TERMS + 1), #terms do parts[#parts + 1] = table.concat(terms[i], ' ') end
  redis.call('HSET', KEYS[1], 'offset', text(log.offset), 'terms', table.concat(parts, ' '))
end

local function stand()
  local fresh, run, seen_epoch, seen, seen_run = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
  local at = redis.call('HMGET', KEYS[1], 'layout', 'epoch', 'offset', 'begin', 'forgotten', 'terms', 'holes', 'ended', 'begun')
  if at[1] and at[1] ~= ARGV[1] then
    return redis.error_reply('LAYOUT the log was made with partitions = ' .. at[1] .. ', not ' .. ARGV[1])
  end
  if not (at[2] and at[3]) then
    -- Without its count the log is lost; what is left of it must not be taken for the new one's.
    redis.call('UNLINK', KEYS[1], KEYS[2])
    local log = {offset = 0, forgotten = 0, holes = '', terms = {}}
    redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'offset', '0', 'forgotten', '0')
    begin(log, fresh, '')
    if run ~= '' then redis.call('HSET', KEYS[1], 'terms', run .. ' 0 0') end
    if seen_epoch ~= '0' then
      local ended = {}
      note_end(ended, seen_epoch, seen_run, seen, run)
      redis.call('HSET', KEYS[1], 'ended', join_ended(ended))
    end
    return log
  end
  local log = {
    epoch = at[2],
    offset = tonumber(at[3]),
    begin = tonumber(at[4] or '0'),
    forgotten = tonumber(at[5] or '0'),
    holes = at[7] or '',
    begun = at[9] or '',
    terms = {},
  }
  local stood, terms, is_known = log.offset, log.terms, seen_run == ''
  for name, base, start in string.gmatch(at[6] or '', '(%S+) (%d+) (%d+)') do
    terms[#terms + 1] = {name, base, start}
    is_known = is_known or name == seen_run
  end
  take_over(log, terms, run, fresh)
  local ended = {}
  for epoch, on, told, by in string.gmatch(at[8] or '', '(%d+) (%S+) (%d+) (%S+)') do
    ended[#ended + 1] = {epoch, on, told, by}
  end
  local place = left_at(stood, terms, seen)
  local lost
  if log.epoch == seen_epoch then
    lost = place or not is_known and seen > 0
  else
    lost = is_untold(ended, terms, seen_epoch, seen_run, seen)
    if lost then note_end(ended, log.epoch, run, log.offset, run) end
  end
  if lost then
    note_end(ended, seen_epoch, seen_run, seen, run)
    redis.call('HSET', KEYS[1], 'ended', join_ended(ended))
    -- Nobody knows where a server that was never heard of left this log.
    begin(log, fresh, log.begun, seen_epoch, is_known and place)
  end
  return log
end

-- Notes a hole. Over the bound, the two oldest become one that covers both.
local function add_hole(log, after, next)
  local holes = {}
  for from, to in string.gmatch(log.holes, '(%d+) (%d+)') do holes[#holes + 1] = {from, to} end
  holes[#holes + 1] = {after, next}
  if #holes > HOLES then
    holes[2][1] = holes[1][1]
    table.remove(holes, 1)
  end
  local parts = {}
  for _, hole in ipairs(holes) do parts[#parts + 1] = hole[1] .. ' ' .. hole[2] end
  log.holes = table.concat(parts, ' ')
  redis.call('HSET', KEYS[1], 'holes', log.holes)
end
