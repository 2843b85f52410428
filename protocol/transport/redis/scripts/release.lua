-- Drop finished requests with their fences, so that the same ids may run again.
--
-- KEYS: the result stream of each request. One without a terminal, or whose payload was trimmed, stays as it is.

local TERMINAL = '18446744073709551615-18446744073709551615'
for _, key in ipairs(KEYS) do
  if redis.call('XRANGE', key, TERMINAL, TERMINAL)[1] then redis.call('UNLINK', key) end
end
return 0
