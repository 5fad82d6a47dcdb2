-- Appends one event and returns { epoch, secret, its sequence, floor }.
--
-- ARGV[3]  about how many events to keep          ARGV[4...]  the event's fields and values
--
-- Each event also carries the epoch it was appended in, so that who reads the stream without asking for its state
-- cannot take one log's events for another's.
local state = log_state()
if not state then return no_run_id end
local seq = string.format('%.0f', tonumber(state[3]) + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], seq .. '-0', 'e', state[1], unpack(ARGV, 4))
local floor = floor_of(seq)
redis.call('HSET', KEYS[2], 'seq', seq, 'floor', floor)
return { state[1], state[2], seq, floor }
