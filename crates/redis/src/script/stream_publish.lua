-- Adds an entry to a stream unless its idempotency key is known, in one step.
--
-- KEYS: 4 the idempotency key (may be absent).
-- ARGV: 6 how long a key is known, in ms, 7… fields and values.
-- Answers 1, and where the first one stands, where the key is known; else 0 and where it stands.

local known = KEYS[4] and redis.call('GET', KEYS[4])
if known then
  local epoch, id = string.match(known, '(%d+) (%S+)')
  return {1, epoch, id}
end
local at = stand()
if at.err then return at end
local entry = {}
for i = 7, #ARGV do entry[#entry + 1] = ARGV[i] end
local id = redis.call('XADD', stream, '*', unpack(entry))
if KEYS[4] then redis.call('SET', KEYS[4], at.epoch .. ' ' .. id, 'PX', ARGV[6]) end
return {0, at.epoch, id}
