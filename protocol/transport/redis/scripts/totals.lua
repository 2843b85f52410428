-- Read the totals of model versions, which finish.lua counts.
--
-- KEYS: for each version the hash of its totals, and the list of those that are not in the hash yet.
-- Returns for each version the hash (name, number, ...) and the list (msgpack maps of name to number), read in one step.

local found = {}
for i = 1, #KEYS, 2 do
  found[#found + 1] = redis.call('HGETALL', KEYS[i])
  found[#found + 1] = redis.call('LRANGE', KEYS[i + 1], 0, -1)
end
return found
