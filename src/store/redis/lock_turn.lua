-- Prolongs a lock, gives it up or leaves a word in its place, if it is still the caller's.
--
-- KEYS[1]  the lock
-- ARGV[1]  the caller's value      ARGV[2]  the value to be there from now on; nothing = none
-- ARGV[3]  how long that lasts, milliseconds
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
