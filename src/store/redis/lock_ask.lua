-- Takes a lock if it is free, or replaces one holder's value by another's. Answers with the value that is there now
-- and how many milliseconds it has left: the caller's own value means that the lock is the caller's.
--
-- KEYS[1]  the lock
-- ARGV[1]  the caller's value      ARGV[2]  how long it lasts, milliseconds      ARGV[3]  a value to replace, or nothing
local held = redis.call('GET', KEYS[1])
if not held or held == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return { ARGV[1], ARGV[2] }
end
return { held, redis.call('PTTL', KEYS[1]) }
