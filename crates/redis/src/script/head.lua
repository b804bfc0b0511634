-- ARGV: 7 '1' takes a place without an event.
local log = stand()
if log.err then return log end
if ARGV[7] == '1' then
  log.offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
end
-- Between where one server stood and where the next one began, there are no places.
local apart = {}
for _, term in ipairs(log.terms) do apart[#apart + 1] = term[2] .. ' ' .. term[3] end
return {log.epoch, text(log.offset), text(log.begin), text(log.forgotten), log.holes, table.concat(apart, ' '), log.begun}
