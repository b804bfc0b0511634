-- Lets go of the leases that the caller holds, and tells a pub/sub name of it.
-- KEYS: the recorder's lease, the standby's lease. ARGV: who lets go, the name, the message.
local was_recorder = redis.call('GET', KEYS[1]) == ARGV[1]
for _, lease in ipairs(KEYS) do
  if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end
if was_recorder then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
return 1
