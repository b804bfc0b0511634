-- Records what raw publishers published, in batches, and renews the recorder's lease, in one step.
-- It does so only for the holder of the newest token, and only if everything before the batch was
-- recorded and nothing of it: the place of the bus that the log knows is the one before the batch.
--
-- KEYS: 3 the recorder's lease, then the streams of the channels that the batch touches.
-- ARGV: 7 token, 8 the bus's place before ('' none), 9 the bus's place after, 10 who holds the
--       lease, 11 for how long, in ms, 12 what pub/sub names of channels begin with, 13 the pub/sub
--       name of holes where the log gets one before the batch ('' none), 14 the most channels that
--       are known, 15 what the names of streams begin with, 16 the number of channels; then of each
--       channel name, max_count, max_bytes, max_age in ms; then of each event the channel's number,
--       weight, envelope.
-- Answers 0 and the log's place; 1 and the log's place where just this was recorded before; 2 where
-- the token is not the newest; 3 where the bus's place is another.

local meta = KEYS[1]
local held = redis.call('HMGET', meta, 'token', 'bus', 'epoch', 'offset')
if held[1] ~= ARGV[7] then return {2, '0', '0'} end
if held[2] == ARGV[9] and ARGV[8] ~= ARGV[9] then return {1, held[3], held[4]} end
if (held[2] or '') ~= ARGV[8] then return {3, '0', '0'} end

local log = stand()
if log.err then return log end

redis.call('SET', KEYS[3], ARGV[10], 'PX', ARGV[11])

if ARGV[13] ~= '' then
  local after = text(log.offset)
  log.offset = redis.call('HINCRBY', meta, 'offset', 1)
  add_hole(log, after, text(log.offset))
  redis.call('PUBLISH', ARGV[13], log.epoch .. ' ' .. text(log.offset))
end

local count = tonumber(ARGV[16])
local first = 17 + 4 * count
local now = now_in_ms()
-- All before the first event: what fails does so before anything is recorded.
local opened = {}
for number = 1, count do
  opened[number] = open(log, ARGV[13 + 4 * number], KEYS[3 + number])
end
local events = (#ARGV - first + 1) / 3
local offset = log.offset
log.offset = redis.call('HINCRBY', meta, 'offset', events)
for at = first, #ARGV, 3 do
  local number = tonumber(ARGV[at])
  local channel = opened[number]
  offset = offset + 1
  append(log, channel, offset, tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[14 + 4 * number], now,
    ARGV[12] .. channel.name)
end
for number, channel in ipairs(opened) do
  close(channel, tonumber(ARGV[15 + 4 * number]), tonumber(ARGV[16 + 4 * number]), now)
end
forget(tonumber(ARGV[14]), count, ARGV[15])
redis.call('HSET', meta, 'bus', ARGV[9])
return {0, log.epoch, text(log.offset)}
