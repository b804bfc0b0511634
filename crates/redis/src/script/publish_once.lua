-- Announces a publication unless its idempotency key is known, in one step.
-- KEYS[1] the key; ARGV: how long it is known in milliseconds, the pub/sub channel, the message.
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
  return 1
end
return 0
