-- Makes the caller the recorder, unless there is one: nobody with an older token records from here
-- on.
--
-- KEYS: 3 the recorder's lease, 4 the standby's lease. ARGV: 7 who takes it, 8 for how long, in ms.
-- Answers the token ('' where there is a recorder), the bus's place up to which all is recorded (''
-- none: the log is new), and the log's place.

local held = redis.call('GET', KEYS[3])
if held and held ~= '' then return {'', '', '0', '0'} end
local log = stand()
if log.err then return log end
-- The number is for the eye; the name is another in every session, so that a token is never given
-- twice, even if the count was lost.
local token = text(redis.call('HINCRBY', KEYS[1], 'tokens', 1)) .. '-' .. ARGV[7]
redis.call('HSET', KEYS[1], 'token', token)
redis.call('SET', KEYS[3], ARGV[7], 'PX', ARGV[8])
if redis.call('GET', KEYS[4]) == ARGV[7] then redis.call('DEL', KEYS[4]) end
return {token, redis.call('HGET', KEYS[1], 'bus') or '', log.epoch, text(log.offset)}
