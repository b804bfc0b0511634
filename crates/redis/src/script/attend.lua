-- Makes the caller the standby, or lets it stay so, unless there is another one.
-- KEYS: the recorder's lease, the standby's lease, meta. ARGV: who asks, for how long, in ms.
-- Answers whether the caller is the standby, whether there is a recorder (1; 2: it let go, 0: its
-- lease ran out), and whether recording has begun.
local standby = redis.call('GET', KEYS[2])
local mine = not standby or standby == ARGV[1]
if mine then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
local recorder = redis.call('GET', KEYS[1])
local held = recorder == '' and 2 or recorder and 1 or 0
return {mine and 1 or 0, held, redis.call('HEXISTS', KEYS[3], 'bus')}
