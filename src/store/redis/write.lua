-- Carries out what one member has to write, in order, and adds to the answer the sequence of each: 0 for an event that
-- was not appended because somebody else has taken up the purge from outside. It has no place, least of all the end:
-- another's event stands there.
--
-- ARGV[5]  about how many events to keep      ARGV[6]  the member      ARGV[7]  the number of its last beat
-- ARGV[8…] one after the other:
--   'intend'   id  fields                     records an intent: the event's fields and values as netstrings
--   'withdraw' id                             forgets it
--   'append'   id  claim  n  field value …    appends an event of n fields and values, forgets the intent `id`, and, if
--                                             `claim` names a purge from outside, does so only if it still waits
local state = log_state()
if not state then return no_run_id end
local seqs, wrote, counts, at = {}, false, false, 8
while at <= #ARGV do
  local what, intent, place = ARGV[at], ARGV[6] .. ':' .. ARGV[at + 1], nil
  if what == 'intend' then
    -- Who is not registered is not evicted either: nobody would purge for it.
    redis.call('HSETNX', KEYS[3], ARGV[6], ARGV[7])
    redis.call('HSET', KEYS[4], intent, ARGV[at + 2])
    counts = true
    at = at + 3
  elseif what == 'withdraw' then
    redis.call('HDEL', KEYS[4], intent)
    counts = true
    at = at + 2
  else
    local claim, n = ARGV[at + 2], tonumber(ARGV[at + 3])
    if claim == '' or redis.call('XDEL', KEYS[6], claim) == 1 then
      local fields = {}
      for i = 1, n do fields[i] = ARGV[at + 3 + i] end
      append(state, ARGV[5], fields)
      wrote = true
    else
      place = '0'
    end
    if ARGV[at + 1] ~= '' then
      redis.call('HDEL', KEYS[4], intent)
      counts = true
    end
    at = at + 4 + n
  end
  seqs[#seqs + 1] = place or state[3]
end
if wrote then appended(state) end
if counts then counted() end
roster(state)[10] = seqs
return state
