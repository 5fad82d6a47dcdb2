-- Shared by all scripts of the purge log: the log's state, or a new epoch if it is not the log that was left.
--
-- KEYS[1]  the stream          ARGV[1]  an epoch to use if a new one is needed (32 hex digits, random)
-- KEYS[2]  its state           ARGV[2]  a secret to use if the log has none (64 hex digits)
--
-- The state is a hash: epoch, secret, seq (the end), floor, run_id. A new epoch is made, atomically, when any of
-- it is missing, when the server is not the one that made it (a restart, a failover, a restored dump: events may
-- be lost that somebody has applied), or when the stream does not end where the state says.

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

local function log_state()
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  if not run_id then return nil end
  local epoch, secret, seq, made_by
  if type_of(KEYS[2]) == 'hash' then
    local s = redis.call('HMGET', KEYS[2], 'epoch', 'secret', 'seq', 'run_id')
    epoch, secret, seq, made_by = s[1], s[2], s[3], s[4]
  end
  if not hex(secret, 64) then secret, epoch = ARGV[2], nil end
  if made_by ~= run_id or not hex(epoch, 32) or not number(seq) or stream_end() ~= seq .. '-0' then
    epoch, seq = ARGV[1], '0'
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[2], 'epoch', epoch, 'secret', secret, 'seq', seq, 'floor', seq, 'run_id', run_id)
  end
  return { epoch, secret, seq, floor_of(seq) }
end

local no_run_id = redis.error_reply('NORUNID this server does not tell its run_id to scripts')

