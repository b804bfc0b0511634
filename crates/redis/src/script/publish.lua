-- Takes the log's next places, appends to the channels' streams and announces, in one step: some
-- publications, in their order. Each stands for itself.
--
-- KEYS: from 3 on, of each publication the channel's stream, and the idempotency key where it has one.
-- ARGV: 7 the most channels that are known, 8 how long a key is known, in ms, 9 where pub/sub is
--       sharded: the name that every channel is announced on besides, else ''; then of each
--       publication channel, pub/sub name, envelope, weight, max_count, max_bytes, max_age in ms, and
--       '1' where it has a key.
-- Answers of each: 0 and its place; 1 and the first place, where the key is known; 2 and why, where
-- the server took others and not this one.

local FIRST, EACH = 10, 8
local window, all = ARGV[8], ARGV[9]
local opened, touched = {}, {}

-- What fails here fails before anything of the publication is stored, and concerns it alone.
local function put(log, at, key, stream, offset, now)
  local name = ARGV[at]
  local channel = opened[name] or open(log, name, stream)
  append(log, channel, offset, tonumber(ARGV[at + 3]), ARGV[at + 2], ARGV[at + 4], now, ARGV[at + 1], all)
  if not opened[name] then
    channel.max_bytes, channel.max_age = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
    opened[name], touched[#touched + 1] = channel, channel
  end
  if key then
    redis.call('SET', key, log.epoch .. ' ' .. channel.previous, 'PX', window)
  end
  return channel.previous
end

local answers, left, key_at = {}, (#ARGV - FIRST + 1) / EACH, 3
local log, now, offset
for at = FIRST, #ARGV, EACH do
  local stream, key = KEYS[key_at], nil
  key_at = key_at + 1
  if ARGV[at + 7] == '1' then
    key = KEYS[key_at]
    key_at = key_at + 1
  end
  local known = key and redis.call('GET', key)
  if known then
    local epoch, place = string.match(known, '(%d+) (%d+)')
    answers[#answers + 1] = {1, epoch, place}
  else
    if not log then
      log = stand()
      if log.err then return log end
      now = now_in_ms()
      -- The first write: a server that takes none refuses all of them here.
      offset = redis.call('HINCRBY', KEYS[1], 'offset', left) - left
    end
    offset = offset + 1
    local stored, place = pcall(put, log, at, key, stream, offset, now)
    if stored then
      answers[#answers + 1] = {0, log.epoch, place}
    else
      answers[#answers + 1] = {2, type(place) == 'table' and place.err or place, ''}
    end
  end
  left = left - 1
end
for _, channel in ipairs(touched) do
  close(channel, channel.max_bytes, channel.max_age, now)
end
if touched[1] then
  local stream, name = touched[1].stream, touched[1].name
  forget(tonumber(ARGV[7]), #touched, string.sub(stream, 1, -1 - string.len(name)))
end
return answers
