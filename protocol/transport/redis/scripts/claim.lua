-- Claim a keyed or asynchronous request for one gateway, or attach to its claim.
--
-- KEYS: 1 the request's result stream.
-- ARGV: 1 fingerprint of the body, 2 channel to wake or "", 3 milliseconds of the lease, 4 minimum milliseconds that the
--       stream lives on, 5 model, 6 version, 7 microseconds when it was accepted, 8 a unique name of this call,
--       9 partition/offset of a finished record, or "".
-- Returns {0} claimed: publish; {1, published, place} another call is in flight, this one will be woken: "1" if it is known
-- to be in the log, and partition/offset of its newest record or ""; {2, payload} it has its terminal ("" if the payload
-- was trimmed); {3} the key was used with another body.
--
-- A claim starts the stream with entry 0-1: f(ingerprint), to, lease (its end on this server's clock), call, m(odel),
-- v(ersion), a(ccepted). Later ones append to, and lease where they took over. It holds while its lease runs, or when it
-- was confirmed (`ok`, with the record's place), or when a worker has the request (an attempt). A retriable terminal is
-- deleted and claimed anew. A stream without a terminal whose newest record is finished has lost its answer: then only a
-- lease holds, so that one caller at a time publishes it again.
-- The same call again (its answer was lost on the way) gets the same answer.

local TERMINAL = '18446744073709551615-18446744073709551615'
local key = KEYS[1]
local fingerprint, reply_to, ttl, call, done_with = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[8], ARGV[9]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = string.format('%.0f', now + ARGV[3])

local function last_id()
  local facts = redis.pcall('XINFO', 'STREAM', key)
  if facts.err then return nil end
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then return facts[i + 1] end
  end
end

local function live_on()
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

local function fresh()
  redis.call('XADD', key, '0-1', 'f', fingerprint, 'to', reply_to, 'lease', lease, 'call', call,
    'm', ARGV[5], 'v', ARGV[6], 'a', ARGV[7])
  redis.call('PEXPIRE', key, ttl)
  return {0}
end

local last = last_id()
if not last then return fresh() end

local known, payload, retriable = nil, '', false
local held_until, holder, confirmed, place, channels = 0, nil, false, '', {}
for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
  local fields = entry[2]
  for f = 1, #fields, 2 do
    local name, value = fields[f], fields[f + 1]
    if name == 'f' then known = known or value
    elseif name == 'to' then channels[value] = true
    elseif name == 'lease' then held_until = tonumber(value)
    elseif name == 'call' then holder = value
    elseif name == 'w' then confirmed = true
    elseif name == 'ok' then
      confirmed = true
      if value ~= '1' then place = value end
    elseif name == 'no' then held_until = 0
    elseif name == 'r' then payload = value
    elseif name == 'x' then retriable = true
    end
  end
end

if known and known ~= fingerprint then return {3} end
if last == TERMINAL then
  if not retriable then return {2, payload} end
  redis.call('DEL', key)
  return fresh()
end
if holder == call then return {0} end

local ms, seq = string.match(last, '^(%d+)-(%d+)$')
local next_id = ms .. '-' .. string.format('%.0f', seq + 1)
local add = {'XADD', key, next_id}
local function field(name, value)
  add[#add + 1] = name
  add[#add + 1] = value
end
local lost = done_with ~= '' and (place == '' or place == done_with)
local mine = (not confirmed or lost) and now >= held_until
if not known then field('f', fingerprint) end
if reply_to ~= '' and not channels[reply_to] then field('to', reply_to) end
if mine then
  field('lease', lease)
  field('call', call)
end
if #add > 3 then redis.call(unpack(add)) end
live_on()
if mine then return {0} end
return {1, confirmed and '1' or '', place}
