-- Where a log stands; begins it where there is none, and begins a new epoch where the store went
-- back behind what the caller has seen, so that places would be given twice.
--
-- KEYS: 1 meta, 2 channels (zset: each channel's last offset).
-- ARGV: 1 layout, 2 a fresh epoch, 3 the run of this server ('' unknown),
--       4 to 6 what the caller has seen: epoch, offset, and on which run.
--
-- meta: layout, epoch, offset (the last place given), begin (the place where the epoch began),
-- forgotten (no channel that is not in the zset has an event after it), runs ("run base run base …":
-- the servers that gave places, in turn, and where the log stood when each took over), ended ("epoch
-- told run …": of epochs before this one, up to which place what was lost is told, and which run ended
-- it), holes ("after
-- next after next …": events after the one place and up to the other are missing that nobody can name).

local RUNS = 8
local HOLES = 32
local ENDED = 8

local function text(number) return string.format('%.0f', number) end

-- Ends an epoch, or tells more of one that has ended: what callers saw of it up to `told` is told by
-- the epoch that begins now.
local function note_end(ended, epoch, told, run)
  for _, one in ipairs(ended) do
    if one[1] == epoch then
      one[2] = text(math.max(told, tonumber(one[2])))
      return
    end
  end
  ended[#ended + 1] = {epoch, text(told), run == '' and '-' or run}
  if #ended > ENDED then table.remove(ended, 1) end
end

local function join_ended(ended)
  local parts = {}
  for _, one in ipairs(ended) do parts[#parts + 1] = table.concat(one, ' ') end
  return table.concat(parts, ' ')
end

-- Whether the caller saw something of an epoch that had ended here, which another server took while
-- others had left that one, and were told too early to be told of it. What the server itself had given
-- when it ended the epoch, all who were told then are told.
local function is_untold(ended, epoch, seen, run)
  for _, one in ipairs(ended) do
    if one[1] == epoch then return seen > tonumber(one[2]) and run ~= one[3] end
  end
  return false
end

local function stand()
  local fresh, run, seen_epoch, seen, seen_run = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
  local at = redis.call('HMGET', KEYS[1], 'layout', 'epoch', 'offset', 'begin', 'forgotten', 'runs', 'holes', 'ended')
  if at[1] and at[1] ~= ARGV[1] then
    return redis.error_reply('LAYOUT the log was made with partitions = ' .. at[1] .. ', not ' .. ARGV[1])
  end
  if not (at[2] and at[3]) then
    -- Without its count the log is lost; what is left of it must not be taken for the new one's.
    redis.call('UNLINK', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'epoch', fresh, 'offset', '0', 'begin', '0',
      'forgotten', '0', 'runs', run .. ' 0')
    if seen_epoch ~= '0' then
      local ended = {}
      note_end(ended, seen_epoch, seen, run)
      redis.call('HSET', KEYS[1], 'ended', join_ended(ended))
    end
    return {epoch = fresh, offset = 0, begin = 0, forgotten = 0, holes = ''}
  end
  local log = {
    epoch = at[2],
    offset = tonumber(at[3]),
    begin = tonumber(at[4] or '0'),
    forgotten = tonumber(at[5] or '0'),
    holes = at[7] or '',
  }
  -- The lowest place at which a server took over since the caller's.
  local low, found, runs = log.offset, false, {}
  for name, base in string.gmatch(at[6] or '', '(%S+) (%d+)') do
    runs[#runs + 1] = {name, base}
  end
  if run ~= '' and (#runs == 0 or runs[#runs][1] ~= run) then
    runs[#runs + 1] = {run, text(log.offset)}
    local kept = {}
    for i = math.max(1, #runs - RUNS + 1), #runs do
      kept[#kept + 1] = runs[i][1] .. ' ' .. runs[i][2]
    end
    redis.call('HSET', KEYS[1], 'runs', table.concat(kept, ' '))
  end
  for _, one in ipairs(runs) do
    if one[1] == seen_run then
      low, found = log.offset, true
    elseif found then
      low = math.min(low, tonumber(one[2]))
    end
  end
  local unknown = seen_run ~= '' and not found
  local ended = {}
  for epoch, told, on in string.gmatch(at[8] or '', '(%d+) (%d+) (%S+)') do
    ended[#ended + 1] = {epoch, told, on}
  end
  local lost
  if log.epoch == seen_epoch then
    lost = seen > low or unknown and seen > 0
  else
    lost = is_untold(ended, seen_epoch, seen, seen_run)
    if lost then note_end(ended, log.epoch, log.offset, run) end
  end
  if lost then
    note_end(ended, seen_epoch, seen, run)
    log.epoch, log.begin = fresh, log.offset
    redis.call('HSET', KEYS[1], 'epoch', fresh, 'begin', text(log.begin),
      'runs', run .. ' ' .. text(log.offset), 'ended', join_ended(ended))
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
