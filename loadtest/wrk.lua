-- wrk's script: rotates through prepared bodies and prints the outcome as one JSON line.
-- wrk -s wrk.lua URL -- BODIES_FILE PATH [HEADER_NAME HEADER_VALUE]...   (each body: its length, a space, its bytes)
-- Statuses are counted by wrk itself; defining response() would make it hand every answer to Lua, which would cost more than some
-- servers do.

local requests, position = {}, 0

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for i = 3, #args - 1, 2 do headers[args[i]] = args[i + 1] end
  local file = assert(io.open(args[1], "rb"))
  for length in function() return file:read("*n") end do
    file:read(1)
    requests[#requests + 1] = wrk.format("POST", args[2], headers, file:read(length))
  end
  file:close()
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d',
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
  for _, percentile in ipairs({ 50, 90, 95, 99, 99.9 }) do
    io.write(string.format(',"p%g":%d', percentile, latency:percentile(percentile)))
  end
  io.write(string.format(',"mean":%.3f,"max":%d}\n', latency.mean, latency.max))
end
