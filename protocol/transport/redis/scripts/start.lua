-- Start an attempt of each request: a marker entry <attempt>-0, after which every entry of an older attempt is refused.
-- An attempt that the same worker started last is not counted again.
--
-- KEYS: the result stream of each request.
-- ARGV: 1 worker (its name changes with every start of its process), 2 minimum milliseconds that the stream lives on.
-- Returns for each its attempt, 1 for the first; 0 if the request has its terminal.

local TERMINAL = '18446744073709551615-18446744073709551615'
local worker, ttl = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local at = time[1] .. string.format('%06d', time[2])

local function last_id(key)
  local facts = redis.pcall('XINFO', 'STREAM', key)
  if facts.err then return '0-0' end
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then return facts[i + 1] end
  end
end

local function begun_by(key, attempt)
  if attempt == 0 then return nil end
  local id = string.format('%.0f-0', attempt)
  local found = redis.call('XRANGE', key, id, id)[1]
  if not found then return nil end
  for i = 1, #found[2], 2 do
    if found[2][i] == 'w' then return found[2][i + 1] end
  end
end

local attempts = {}
for i, key in ipairs(KEYS) do
  local last = last_id(key)
  if last == TERMINAL then
    attempts[i] = 0
  else
    local attempt = tonumber(string.match(last, '^%d+'))
    if begun_by(key, attempt) ~= worker then
      attempt = attempt + 1
      redis.call('XADD', key, string.format('%.0f-0', attempt), 'w', worker, 'at', at)
    end
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
    attempts[i] = attempt
  end
end
return attempts
