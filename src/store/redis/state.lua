-- Shared by all scripts of the purge log: the log's state, or a new epoch if it is not the log that was left.
--
-- KEYS[1]  the stream of events    ARGV[1]  an epoch to use if a new one is needed (32 hex digits, random)
-- KEYS[2]  the log's state         ARGV[2]  a secret to use if the log has none (64 hex digits)
-- KEYS[3]  members                 ARGV[3]  the lease to agree on in a new epoch, milliseconds
-- KEYS[4]  open intents            ARGV[4]  the mode to agree on in a new epoch: strong | eventual
-- KEYS[5]  acknowledgements
-- KEYS[6]  purges from outside
--
-- The state is a hash: epoch, secret, seq (the end), floor, run_id, lease, mode, settled, turn, and how many members and
-- intents there are. A new epoch is made, atomically, when any of it is missing, when the server is not the one that made
-- it (a restart, a failover, a restored dump: events may be lost that somebody has applied), when the stream does not end
-- where the state says, when there are not as many members or intents (one that nobody took out is not gone: its lease
-- may run, its mutation be under way), or when any key is of another kind than it should be.
--
-- Every script answers with what log_state and roster give: { epoch, secret, end, floor, turn, lease, mode, settled,
-- { member, its beat, … }, … }

local function type_of(key)
  local reply = redis.call('TYPE', key)
  return type(reply) == 'table' and reply.ok or reply
end

local function stream_end()
  local kind = type_of(KEYS[1])
  if kind == 'none' then return '0-0' end
  if kind ~= 'stream' then return kind end
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local function hex(text, digits)
  return type(text) == 'string' and #text == digits and not string.find(text, '%X')
end

local function number(text)
  return type(text) == 'string' and string.find(text, '^%d+$') ~= nil
end

-- The floor: what is trimmed away can no longer be told, whoever trimmed it.
local function floor_of(seq)
  if type_of(KEYS[1]) ~= 'stream' then return seq end
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if not first then return seq end
  return string.format('%.0f', tonumber(string.match(first[1], '^%d+')) - 1)
end

-- Nothing of the old log stays: neither its registrations nor what was about to be appended to it.
local function new_epoch(secret, run_id)
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
  redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'secret', secret, 'seq', '0', 'floor', '0', 'run_id', run_id,
    'lease', ARGV[3], 'mode', ARGV[4], 'settled', '0', 'turn', '1', 'members', '0', 'intents', '0')
  return { ARGV[1], secret, '0', '0', '1', ARGV[3], ARGV[4], '0' }
end

local function is(key, kind)
  local there = type_of(key)
  return there == kind or there == 'none'
end

-- Members and intents are all there, and nothing stands in the way of streams.
local function whole(members, intents)
  return is(KEYS[3], 'hash') and is(KEYS[4], 'hash') and is(KEYS[5], 'stream') and is(KEYS[6], 'stream')
    and redis.call('HLEN', KEYS[3]) == tonumber(members) and redis.call('HLEN', KEYS[4]) == tonumber(intents)
end

-- Writes down how many there are by now.
local function counted()
  redis.call('HSET', KEYS[2], 'members', string.format('%.0f', redis.call('HLEN', KEYS[3])),
    'intents', string.format('%.0f', redis.call('HLEN', KEYS[4])))
end

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

local function log_state()
  if not run_id then return nil end
  local s = {}
  if type_of(KEYS[2]) == 'hash' then
    s = redis.call('HMGET', KEYS[2], 'epoch', 'secret', 'seq', 'run_id', 'lease', 'mode', 'settled',
      'members', 'intents', 'turn')
  end
  local secret = hex(s[2], 64) and s[2] or nil
  local sound = secret and hex(s[1], 32) and number(s[3]) and s[4] == run_id and number(s[5])
    and (s[6] == 'strong' or s[6] == 'eventual') and s[7] and number(s[8]) and number(s[9]) and number(s[10])
  if not sound or stream_end() ~= s[3] .. '-0' or not whole(s[8], s[9]) then
    return new_epoch(secret or ARGV[2], run_id)
  end
  local turn = redis.call('HINCRBY', KEYS[2], 'turn', 1)
  return { s[1], s[2], s[3], floor_of(s[3]), string.format('%.0f', turn), s[5], s[6], s[7] }
end

-- The answer's ninth element: everybody registered.
local function roster(state)
  state[9] = type_of(KEYS[3]) == 'hash' and redis.call('HGETALL', KEYS[3]) or {}
  return state
end

-- Appends an event's fields and values. Each event also carries the epoch it was appended in, so that who reads the
-- stream without asking for its state cannot take one log's events for another's.
local function append(state, keep, fields)
  local seq = string.format('%.0f', tonumber(state[3]) + 1)
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', keep, seq .. '-0', 'e', state[1], unpack(fields))
  state[3] = seq
end

-- Writes down what append has changed.
local function appended(state)
  state[4] = floor_of(state[3])
  redis.call('HSET', KEYS[2], 'seq', state[3], 'floor', state[4])
end

local no_run_id = redis.error_reply('NORUNID this server does not tell its run_id to scripts')
