-- Takes the log's next place, appends to the channel's stream and announces, in one step.
--
-- KEYS: 3 the channel's stream, 4 the idempotency key (may be absent).
-- ARGV: 7 channel, 8 pub/sub name, 9 envelope, 10 weight, 11 max_count, 12 max_bytes,
--       13 max_age in ms, 14 the most channels that are known, 15 how long a key is known, in ms.
-- Answers 1 and the first place where the key is known, else 0 and the place.
--
-- An entry has the id `<offset>-0` and the fields p (the channel's place before it; with a `?` where
-- that is only a bound), s (what all entries before it weighed), w (its weight), t (when, in ms of
-- this server's clock) and e (the envelope). An announcement is `epoch offset p`, a line end, and the
-- envelope.

-- A publish takes away at most so many entries beside those over max_count.
local TRIMS = 128

local epoch_and_offset = KEYS[4] and redis.call('GET', KEYS[4])
if epoch_and_offset then
  local epoch, offset = string.match(epoch_and_offset, '(%d+) (%d+)')
  return {1, epoch, offset}
end

local log = stand()
if log.err then return log end

local meta, channels, stream = KEYS[1], KEYS[2], KEYS[3]
local channel, envelope, weight = ARGV[7], ARGV[9], tonumber(ARGV[10])
local max_bytes, max_age = tonumber(ARGV[12]), tonumber(ARGV[13])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local known = redis.call('ZCARD', channels)
if known == 0 and log.offset > log.forgotten then
  -- The list of channels is gone, and with it what they hold.
  log.forgotten = log.offset
  redis.call('HSET', meta, 'forgotten', text(log.forgotten))
end
local previous = redis.call('ZSCORE', channels, channel)
local before = 0
if previous then
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if newest then before = tonumber(newest[2][4]) + tonumber(newest[2][6]) end
else
  -- A stream that is not in the list is of a log that was lost, or forgotten.
  redis.call('UNLINK', stream)
  previous = log.forgotten > 0 and '?' .. text(log.forgotten) or '0'
end

local offset = text(redis.call('HINCRBY', meta, 'offset', 1))
-- Before PUBLISH, which succeeds where a write is refused: nothing is announced that is not stored.
redis.call('XADD', stream, 'MAXLEN', '=', ARGV[11], offset .. '-0',
  'p', previous, 's', text(before), 'w', text(weight), 't', text(now), 'e', envelope)
for _ = 1, TRIMS do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not oldest then break end
  local bytes = before + weight - tonumber(oldest[2][4])
  if bytes <= max_bytes and now - tonumber(oldest[2][8]) < max_age then break end
  redis.call('XTRIM', stream, 'MAXLEN', '=', redis.call('XLEN', stream) - 1)
end
redis.call('PEXPIRE', stream, ARGV[13])
redis.call('ZADD', channels, offset, channel)

for _ = 1, 2 do
  if redis.call('ZCARD', channels) <= tonumber(ARGV[14]) then break end
  -- The channel that was published on least recently is forgotten.
  local quiet = redis.call('ZRANGE', channels, 0, 0, 'WITHSCORES')
  redis.call('ZREM', channels, quiet[1])
  redis.call('UNLINK', string.sub(stream, 1, -1 - string.len(channel)) .. quiet[1])
  redis.call('HSET', meta, 'forgotten', quiet[2])
end

if KEYS[4] then
  redis.call('SET', KEYS[4], log.epoch .. ' ' .. offset, 'PX', ARGV[15])
end
redis.call('PUBLISH', ARGV[8], log.epoch .. ' ' .. offset .. ' ' .. previous .. '\n' .. envelope)
return {0, log.epoch, offset}
