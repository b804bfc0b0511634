-- How events get into the stream of their channel: shared by all scripts that store events.
--
-- An entry has the id `<offset>-0` and the fields p (the channel's place before it; with a `?` where
-- that is only a bound), s (what all entries before it weighed), w (its weight), t (when, in ms of
-- this server's clock) and e (the envelope). An announcement is `epoch offset p`, a line end, and the
-- envelope; on the name of every channel the line ends with the channel.

-- Of a channel, at most so many entries are taken away beside those over max_count and those added.
local TRIMS = 128

local function now_in_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A channel to append to: the place before, and what all its entries weighed.
local function open(log, name, stream)
  local meta, channels = KEYS[1], KEYS[2]
  local known = redis.call('ZCARD', channels)
  if known == 0 and log.offset > log.forgotten then
    -- The list of channels is gone, and with it what they hold.
    log.forgotten = log.offset
    redis.call('HSET', meta, 'forgotten', text(log.forgotten))
  end
  local channel = {name = name, stream = stream, weighed = 0, added = 0}
  channel.previous = redis.call('ZSCORE', channels, name)
  if channel.previous then
    local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if newest then channel.weighed = tonumber(newest[2][4]) + tonumber(newest[2][6]) end
  else
    -- A stream that is not in the list is of a log that was lost, or forgotten.
    redis.call('UNLINK', stream)
    channel.previous = log.forgotten > 0 and '?' .. text(log.forgotten) or '0'
  end
  return channel
end

-- Stores an event and announces it: where pub/sub is sharded, by that, and on the name `all` besides.
local function append(log, channel, offset, weight, envelope, max_count, now, live, all)
  local place = text(offset)
  -- Before PUBLISH, which succeeds where a write is refused: nothing is announced that is not stored.
  redis.call('XADD', channel.stream, 'MAXLEN', '=', max_count, place .. '-0',
    'p', channel.previous, 's', text(channel.weighed), 'w', text(weight), 't', text(now),
    'e', envelope)
  local line = log.epoch .. ' ' .. place .. ' ' .. channel.previous
  if (all or '') == '' then
    redis.call('PUBLISH', live, line .. '\n' .. envelope)
  else
    redis.call('SPUBLISH', live, line .. '\n' .. envelope)
    redis.call('SPUBLISH', all, line .. ' ' .. channel.name .. '\n' .. envelope)
  end
  channel.previous, channel.added = place, channel.added + 1
  channel.weighed = channel.weighed + weight
end

-- Takes away what the channel may not keep, and notes its last place.
local function close(channel, max_bytes, max_age, now)
  for _ = 1, TRIMS + channel.added do
    local oldest = redis.call('XRANGE', channel.stream, '-', '+', 'COUNT', 1)[1]
    if not oldest then break end
    local bytes = channel.weighed - tonumber(oldest[2][4])
    if bytes <= max_bytes and now - tonumber(oldest[2][8]) < max_age then break end
    redis.call('XTRIM', channel.stream, 'MAXLEN', '=', redis.call('XLEN', channel.stream) - 1)
  end
  redis.call('PEXPIRE', channel.stream, text(max_age))
  redis.call('ZADD', KEYS[2], channel.previous, channel.name)
end

-- Forgets the channels that were published on least recently, over so many, one more than were
-- opened. `streams` is what the names of all streams begin with.
local function forget(most, opened, streams)
  for _ = 1, opened + 1 do
    if redis.call('ZCARD', KEYS[2]) <= most then break end
    local quiet = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
    redis.call('ZREM', KEYS[2], quiet[1])
    -- While its slot moves, a stream may be on another node already. What is stored and announced
    -- must not fail for that.
    redis.pcall('UNLINK', streams .. quiet[1])
    redis.call('HSET', KEYS[1], 'forgotten', quiet[2])
  end
end
