-- Takes the log's next place, appends to the channel's stream and announces, in one step.
--
-- KEYS: 3 the channel's stream, 4 the idempotency key (may be absent).
-- ARGV: 7 channel, 8 pub/sub name, 9 envelope, 10 weight, 11 max_count, 12 max_bytes,
--       13 max_age in ms, 14 the most channels that are known, 15 how long a key is known, in ms,
--       16 where pub/sub is sharded: the name that every channel is announced on besides, else ''.
-- Answers 1 and the first place where the key is known, else 0 and the place.

local epoch_and_offset = KEYS[4] and redis.call('GET', KEYS[4])
if epoch_and_offset then
  local epoch, offset = string.match(epoch_and_offset, '(%d+) (%d+)')
  return {1, epoch, offset}
end

local log = stand()
if log.err then return log end

local name, stream = ARGV[7], KEYS[3]
local now = now_in_ms()
local channel = open(log, name, stream)
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
append(log, channel, offset, tonumber(ARGV[10]), ARGV[9], ARGV[11], now, ARGV[8], ARGV[16])
close(channel, tonumber(ARGV[12]), tonumber(ARGV[13]), now)
forget(tonumber(ARGV[14]), 1, string.sub(stream, 1, -1 - string.len(name)))

if KEYS[4] then
  redis.call('SET', KEYS[4], log.epoch .. ' ' .. channel.previous, 'PX', ARGV[15])
end
return {0, log.epoch, channel.previous}
