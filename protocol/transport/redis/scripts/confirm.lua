-- Note on a claimed request whether the broker acknowledged it: `ok` makes the claim hold, `no` ends its lease at once.
--
-- KEYS: 1 the request's result stream.
-- ARGV: 1 "ok" or "no", 2 with ok the record's partition/offset, or "1" if unknown.
-- Returns 1 when it was noted, 0 if there is nothing to confirm: no stream, or a terminal.
-- `ok` is final; a `no` that comes after it changes nothing.

local TERMINAL = '18446744073709551615-18446744073709551615'
local facts = redis.pcall('XINFO', 'STREAM', KEYS[1])
if facts.err then return 0 end
local last
for i = 1, #facts, 2 do
  if facts[i] == 'last-generated-id' then last = facts[i + 1] end
end
if last == TERMINAL then return 0 end
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
redis.call('XADD', KEYS[1], ms .. '-' .. string.format('%.0f', seq + 1), ARGV[1], ARGV[2])
return 1
