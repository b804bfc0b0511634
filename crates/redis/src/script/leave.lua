-- Lets go of the leases that the caller holds. A recorder tells a pub/sub name of it, and leaves the
-- word that it did: whoever finds its lease gone knows that it may only be slow.
-- KEYS: the recorder's lease, the standby's lease. ARGV: who lets go, the name, the message, how
-- long that is known, in ms.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], '', 'PX', ARGV[4])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
