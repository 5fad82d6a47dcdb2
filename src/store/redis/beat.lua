-- Registers a member, or renews its registration, unless the namespace has agreed on another lease or mode.
--
-- ARGV[5]  the member          ARGV[6]  the number of its beat
-- ARGV[7]  the epoch it has seen for so long that nobody holds a lease of an earlier one; or nothing
local state = log_state()
if not state then return no_run_id end
if state[6] ~= ARGV[3] or state[7] ~= ARGV[4] then
  -- Who comes last cannot change what others count on. When nobody is left, it may.
  local others = redis.call('HLEN', KEYS[3]) - redis.call('HEXISTS', KEYS[3], ARGV[5])
  if others > 0 then return roster(state) end
  state = new_epoch(state[2], run_id)
end
if redis.call('HSET', KEYS[3], ARGV[5], ARGV[6]) == 1 then counted() end
if ARGV[7] == state[1] then
  redis.call('HSET', KEYS[2], 'settled', '1')
  state[8] = '1'
end
return roster(state)
