-- Removes a member whose lease is over, or that leaves, and appends the purges of its open mutations: whatever became
-- of them, nobody else will.
--
-- ARGV[5]  about how many events to keep      ARGV[6]  the member
-- ARGV[7]  the number of the beat after which it was silent; nothing = whichever

-- An intent's fields and values; what cannot be read purges everything.
local function fields_of(text)
  local fields, from = {}, 1
  while from <= #text do
    local length, colon = string.match(text, '^(%d+)():', from)
    local stop = length and colon + tonumber(length)
    if not stop or stop > #text then return { 'k', 'flush' } end
    fields[#fields + 1] = string.sub(text, colon + 1, stop)
    from = stop + 1
  end
  if #fields == 0 or #fields % 2 == 1 then return { 'k', 'flush' } end
  return fields
end

local state = log_state()
if not state then return no_run_id end
local beat = redis.call('HGET', KEYS[3], ARGV[6])
if beat and (ARGV[7] == '' or beat == ARGV[7]) then
  local intents, wrote = redis.call('HGETALL', KEYS[4]), false
  for i = 1, #intents, 2 do
    if string.sub(intents[i], 1, #ARGV[6] + 1) == ARGV[6] .. ':' then
      append(state, ARGV[5], fields_of(intents[i + 1]))
      redis.call('HDEL', KEYS[4], intents[i])
      wrote = true
    end
  end
  if wrote then appended(state) end
  redis.call('HDEL', KEYS[3], ARGV[6])
  counted()
end
return roster(state)
