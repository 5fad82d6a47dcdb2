-- Removes a member whose lease is over, or that leaves, and appends the purges of its open mutations: whatever became
-- of them, nobody else will.
--
-- ARGV[5]  about how many events to keep      ARGV[6]  the member
-- ARGV[7]  the number of the beat after which it was silent; nothing = whichever
local state = log_state()
if not state then return no_run_id end
local beat = redis.call('HGET', KEYS[3], ARGV[6])
if beat and (ARGV[7] == '' or beat == ARGV[7]) then
  local intents, wrote = redis.call('HGETALL', KEYS[4]), false
  for i = 1, #intents, 2 do
    if string.sub(intents[i], 1, #ARGV[6] + 1) == ARGV[6] .. ':' then
      local text, fields, from = intents[i + 1], {}, 1
      while from <= #text do
        local colon = string.find(text, ':', from, true)
        local stop = colon + tonumber(string.sub(text, from, colon - 1))
        fields[#fields + 1] = string.sub(text, colon + 1, stop)
        from = stop + 1
      end
      append(state, ARGV[5], fields)
      redis.call('HDEL', KEYS[4], intents[i])
      wrote = true
    end
  end
  if wrote then appended(state) end
  redis.call('HDEL', KEYS[3], ARGV[6])
end
return roster(state)
