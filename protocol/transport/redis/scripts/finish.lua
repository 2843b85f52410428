-- Write terminals (the first of each request wins), and wake the channels of its stream.
--
-- KEYS: the result stream of each answer; then, if they are counted, the hash of their model version's totals, and the list of
--       those that are not in the hash yet.
-- ARGV: 1 milliseconds that a claimed result is kept
--       2 characters before the ref in a key
--       3 what all answers together add to the totals: msgpack map of name to number, or "" if they are not counted
--       4 the same in parts, if only some of several answers are written: msgpack [what is added if any is written, different
--         additions of single answers, for each answer which of them it adds, from 1, or 0]; "" with a single answer
--       then for each answer: payload, channel to wake or "", milliseconds that it is kept otherwise,
--       "1" where the failure is retriable, else "0", microseconds when its record was accepted or 0.
-- Returns for each answer 0 written, 1 already terminal, 2 older attempt.
-- Any other refusal (out of memory, read-only, ...) is returned as this call's error. Redis decides on that before the
-- first write, so nothing is done then. Repeating a half-done call only wakes its readers again.
--
-- The terminal has the highest id that a stream can hold, so Redis itself refuses every later entry, for as long as the
-- key lives, even after XDEL, XTRIM, a reload or a rewrite of the append-only file.
-- The totals (protocol/totals.py) are added in this script, so that an answer and its count are one write. They are appended to a list
-- of at most 64, which goes into the hash when it is full: that costs less than a quarter of a dozen HINCRBY per call. A number that
-- the hash refuses (2^63) starts again. Whatever else fails in counting leaves the answers as they are.
-- Wake-up: msgpack list [ref, payload, ref, payload, ...], one for each channel; "" means that the payload must be
-- looked up: it is larger than 16 KB, more than 256 KB came along already, or the write was refused.

local TERMINAL = '18446744073709551615-18446744073709551615'
local BEFORE_TERMINAL = '18446744073709551615-18446744073709551614'
local INLINE, INLINE_IN_CALL = 16 * 1024, 256 * 1024
local FIRST, PER_ANSWER = 5, 5
local RECENT = 64

local call, pcall, rawpcall = redis.call, redis.pcall, pcall
local kept, head, whole, parts = ARGV[1], tonumber(ARGV[2]) + 1, ARGV[3], ARGV[4]
local answers = whole == '' and #KEYS or #KEYS - 2
local outcomes, channels, letters, inlined = {}, {}, {}, 0

local function refusal(message)
  if string.find(message, 'exhausted', 1, true) then return 1 end
  if string.find(message, 'equal or smaller', 1, true) then return 2 end
  return nil
end

local function write(channel, ref, payload)
  local letter = letters[channel]
  if not letter then
    letter = {}
    letters[channel] = letter
    channels[#channels + 1] = channel
  end
  local size = #letter
  letter[size + 1] = ref
  letter[size + 2] = payload
end

-- The other channels to wake, and whether the request was claimed, from the stream's entries before its terminal.
local function look(key, reply_to)
  local waiting, claimed, known = {}, false, {[reply_to] = true, [''] = true}
  for _, entry in ipairs(call('XRANGE', key, '-', BEFORE_TERMINAL)) do
    local fields = entry[2]
    for f = 1, #fields, 2 do
      local name, value = fields[f], fields[f + 1]
      if name == 'f' then claimed = true end
      if name == 'to' and not known[value] then
        known[value] = true
        waiting[#waiting + 1] = value
      end
    end
  end
  return waiting, claimed
end

-- A retriable failure of a record from before the stream's claim: the key was claimed again, and a left-over must not end it.
local function left_over(key, accepted)
  local claim = call('XRANGE', key, '0-1', '0-1')[1]
  if not claim then return nil end
  for f = 1, #claim[2], 2 do
    if claim[2][f] == 'a' and accepted < tonumber(claim[2][f + 1]) then
      return #call('XRANGE', key, TERMINAL, TERMINAL) > 0 and 1 or 2
    end
  end
end

local function add(sum, numbers, times)
  for name, number in pairs(numbers) do
    if name == 'last' then
      sum[name] = math.max(sum[name] or 0, number)
    else
      sum[name] = (sum[name] or 0) + number * times
    end
  end
end

-- What the written answers add, as `protocol.totals.Tally.total`; nil if that is nothing.
local function part_of()
  if parts == '' then return nil end
  local batch, kinds, kind_of = unpack(cmsgpack.unpack(parts))
  local sum, times, any = {}, {}, false
  for i, kind in ipairs(kind_of) do
    if kind > 0 and outcomes[i] == 0 then
      times[kind] = (times[kind] or 0) + 1
      any = true
    end
  end
  if not any then return nil end
  for kind, count in pairs(times) do add(sum, kinds[kind], count) end
  add(sum, batch, 1)
  return cmsgpack.pack(sum)
end

local function fold(totals, recent)
  local sum = {}
  for _, packed in ipairs(call('LRANGE', recent, 0, -1)) do add(sum, cmsgpack.unpack(packed), 1) end
  for name, number in pairs(sum) do
    local text = string.format('%.0f', number)
    if name == 'last' then
      if number > (tonumber(call('HGET', totals, name)) or 0) then call('HSET', totals, name, text) end
    else
      local grown = pcall('HINCRBY', totals, name, text)
      if type(grown) == 'table' then call('HSET', totals, name, text) end
    end
  end
  call('DEL', recent)
end

local function count()
  local added = whole
  for i = 1, answers do
    if outcomes[i] ~= 0 then
      added = part_of()
      break
    end
  end
  if not added then return end
  local totals, recent = KEYS[answers + 1], KEYS[answers + 2]
  if call('RPUSH', recent, added) >= RECENT then fold(totals, recent) end
end

local at = FIRST
for i = 1, answers do
  local key, payload, reply_to, ttl = KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local accepted = tonumber(ARGV[at + 4])
  local written
  local outcome, waiting, claimed = 0, nil, false
  if ARGV[at + 3] == '1' and accepted > 0 then outcome = left_over(key, accepted) or 0 end
  if outcome ~= 0 then
    written = nil
  elseif ARGV[at + 3] == '1' then
    written = pcall('XADD', key, TERMINAL, 'r', payload, 'x', '1')
  else
    written = pcall('XADD', key, TERMINAL, 'r', payload)
  end
  at = at + PER_ANSWER

  if type(written) == 'table' then
    outcome = refusal(written.err)
    if not outcome then return written end
  end
  outcomes[i] = outcome
  if outcome ~= 0 or call('XLEN', key) > 1 then waiting, claimed = look(key, reply_to) end
  if outcome == 0 then
    if claimed then ttl = kept end
    call('PEXPIRE', key, ttl)
  end

  if reply_to ~= '' or waiting and waiting[1] then
    local sent = ''
    if outcome == 0 and #payload <= INLINE and inlined + #payload <= INLINE_IN_CALL then
      sent = payload
      inlined = inlined + #payload
    end
    local ref = string.sub(key, head)
    if reply_to ~= '' then write(reply_to, ref, sent) end
    if waiting then
      for _, channel in ipairs(waiting) do write(channel, ref, sent) end
    end
  end
end

if whole ~= '' then rawpcall(count) end

for _, channel in ipairs(channels) do
  call('PUBLISH', channel, cmsgpack.pack(letters[channel]))
end
return outcomes
