-- The data of one Redis server and the commands that the log uses, as Redis 7 answers them; in Lua, so that a script's
-- calls stay where they are cheap. A database is a table: keys, run_id, read_only, keep (what MAXLEN ~ comes to), now
-- (milliseconds, for automatic ids). A key's value is { hash = {…} }, { text = true } or a stream.

local db, commands = nil, {}
local WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value'
local WRITES = { XADD = true, XDEL = true, XTRIM = true, HSET = true, HSETNX = true, HDEL = true, HINCRBY = true, DEL = true }

local function of_kind(key, kind)
  local value = db.keys[key]
  if value and not value[kind] then error(WRONGTYPE, 0) end
  return value
end

local function hash(key)
  local value = of_kind(key, 'hash')
  return value and value.hash
end

local function hash_to_write(key)
  local there = hash(key)
  if not there then
    there = {}
    db.keys[key] = { hash = there }
  end
  return there
end

local function stream(key) return of_kind(key, 'entries') end

local NONE, HASH, STREAM, STRING = { ok = 'none' }, { ok = 'hash' }, { ok = 'stream' }, { ok = 'string' }

function commands.TYPE(key)
  local value = db.keys[key]
  return not value and NONE or value.hash and HASH or value.entries and STREAM or STRING
end

function commands.INFO() return '# Server\r\nrun_id:' .. db.run_id .. '\r\n' end

-- What is stored is text; the scripts have to see to it themselves.
local function text(value)
  if type(value) ~= 'string' then error('ERR the model stores only strings', 0) end
  return value
end

function commands.DEL(...)
  local gone = 0
  for i = 1, select('#', ...) do
    local key = select(i, ...)
    if db.keys[key] then gone = gone + 1 end
    db.keys[key] = nil
  end
  return gone
end

function commands.EXISTS(key) return db.keys[key] and 1 or 0 end

function commands.HSET(key, ...)
  local there, new = hash_to_write(key), 0
  for i = 1, select('#', ...), 2 do
    local field, value = select(i, ...)
    if not there[field] then new = new + 1 end
    there[field] = text(value)
  end
  return new
end

function commands.HSETNX(key, field, value)
  local there = hash_to_write(key)
  if there[field] then return 0 end
  there[field] = text(value)
  return 1
end

function commands.HINCRBY(key, field, by)
  local there = hash_to_write(key)
  local old = tonumber(there[field] or '0')
  if not old then error('ERR hash value is not an integer', 0) end
  there[field] = string.format('%.0f', old + by)
  return old + by
end

function commands.HDEL(key, ...)
  local there, gone = hash(key), 0
  if not there then return 0 end
  for i = 1, select('#', ...) do
    local field = select(i, ...)
    if there[field] then gone = gone + 1 end
    there[field] = nil
  end
  if not next(there) then db.keys[key] = nil end
  return gone
end

function commands.HGET(key, field)
  local there = hash(key)
  return there and there[field] or false
end

function commands.HMGET(key, ...)
  local there, found = hash(key) or {}, {}
  for i = 1, select('#', ...) do found[i] = there[(select(i, ...))] or false end
  return found
end

-- In one order, whatever became of the table before.
function commands.HGETALL(key)
  local there, fields, all = hash(key) or {}, {}, {}
  for field in pairs(there) do fields[#fields + 1] = field end
  table.sort(fields)
  for i, field in ipairs(fields) do all[2 * i - 1], all[2 * i] = field, there[field] end
  return all
end

function commands.HLEN(key)
  local n = 0
  for _ in pairs(hash(key) or {}) do n = n + 1 end
  return n
end

function commands.HEXISTS(key, field)
  local there = hash(key)
  return there and there[field] and 1 or 0
end

-- `5-1`, or `5` for all of that millisecond; the ends of a range.
local function id(text, missing)
  if text == '-' then return 0, 0 end
  if text == '+' then return math.huge, math.huge end
  local ms, seq = string.match(text, '^(%d+)%-(%d+)$')
  if ms then return tonumber(ms), tonumber(seq) end
  return tonumber(text), missing
end

local function below(ms, seq, other_ms, other_seq)
  return ms < other_ms or ms == other_ms and seq < other_seq
end

local function trim(there, keep)
  while there.tail - there.head + 1 > keep do
    there.entries[there.head] = nil
    there.head = there.head + 1
  end
end

-- XADD key [MAXLEN ~ n] id field value …
function commands.XADD(key, ...)
  local args = { ... }
  local there, at = stream(key), args[1] == 'MAXLEN' and 4 or 1
  if not there then
    there = { entries = {}, head = 1, tail = 0, ms = 0, seq = 0 }
    db.keys[key] = there
  end
  local ms, seq
  if args[at] ~= '*' then
    ms, seq = id(args[at], 0)
  elseif there.ms >= db.now then
    ms, seq = there.ms, there.seq + 1
  else
    ms, seq = db.now, 0
  end
  if not below(there.ms, there.seq, ms, seq) then
    error('ERR The ID specified in XADD is equal or smaller than the target stream top item', 0)
  end
  local fields = {}
  for i = at + 1, #args do fields[i - at] = text(args[i]) end
  local name = string.format('%.0f-%.0f', ms, seq)
  there.ms, there.seq, there.tail, there.last = ms, seq, there.tail + 1, name
  there.entries[there.tail] = { ms = ms, seq = seq, reply = { name, fields } }
  if at > 1 and db.keep then trim(there, db.keep) end
  db.longer = true
  return name
end

function commands.XINFO(_, key)
  local there = stream(key)
  if not there then error('ERR no such key', 0) end
  return { 'length', there.tail - there.head + 1, 'last-generated-id', there.last }
end

function commands.XRANGE(key, from, to, _, count)
  local there, found = stream(key), {}
  if not there then return found end
  local from_ms, from_seq = id(from, 0)
  local to_ms, to_seq = id(to, math.huge)
  for i = there.head, there.tail do
    local entry = there.entries[i]
    if below(to_ms, to_seq, entry.ms, entry.seq) or #found >= tonumber(count or math.huge) then break end
    if not below(entry.ms, entry.seq, from_ms, from_seq) then found[#found + 1] = entry.reply end
  end
  return found
end

function commands.XDEL(key, ...)
  local there, gone = stream(key), 0
  if not there then return 0 end
  for i = 1, select('#', ...) do
    local ms, seq = id((select(i, ...)), 0)
    local kept = {}
    for at = there.head, there.tail do
      local entry = there.entries[at]
      if entry.ms == ms and entry.seq == seq then gone = gone + 1 else kept[#kept + 1] = entry end
    end
    there.entries, there.head, there.tail = kept, 1, #kept
  end
  return gone
end

function commands.XTRIM(key, _, keep)
  local there = stream(key)
  if there then trim(there, tonumber(keep)) end
  return 0
end

local function call(name, ...)
  local command = commands[name]
  if not command then error("ERR unknown command '" .. name .. "'", 0) end
  if db.read_only and WRITES[name] then error('NOREPLICAS Not enough good replicas to write.', 0) end
  return command(...)
end

redis = { call = call, error_reply = function(message) return { err = message } end }

-- Lengths as they go over the wire, made once: it is what costs most.
local function lengths(sign)
  return setmetatable({}, { __index = function(made, n)
    local text = sign .. n .. '\r\n'
    made[n] = text
    return text
  end })
end

local BULK, ARRAY = lengths('$'), lengths('*')

-- A reply as it goes over the wire: puts its pieces behind the nth of `out`, and returns which is the last.
local function resp(value, out, n)
  local kind = type(value)
  if kind == 'string' then
    out[n + 1], out[n + 2], out[n + 3] = BULK[#value], value, '\r\n'
    return n + 3
  elseif kind == 'number' then
    out[n + 1] = string.format(':%.0f\r\n', value)
  elseif kind == 'boolean' or kind == 'nil' then
    out[n + 1] = value and ':1\r\n' or '$-1\r\n'
  elseif value.err then
    out[n + 1] = '-' .. value.err .. '\r\n'
  elseif value.ok then
    out[n + 1] = '+' .. value.ok .. '\r\n'
  elseif value.wire then
    out[n + 1] = value.wire
  else
    local length = #value
    n = n + 1
    out[n] = ARRAY[length]
    for i = 1, length do n = resp(value[i], out, n) end
    return n
  end
  return n + 1
end

local function wire(value)
  local out = {}
  resp(value, out, 0)
  return table.concat(out)
end

local function answer(fine, reply)
  return wire(fine and reply or not fine and { err = reply } or false), db.longer or false
end

-- XREAD: what lies behind these ids; false = nothing.
local function read(keys, ids)
  local found = {}
  for i = 1, #keys do
    local there, ms, seq = stream(keys[i]), ids[i][1], ids[i][2]
    local last = there and there.entries[there.tail]
    if last and below(ms, seq, last.ms, last.seq) then
      local entries, first = {}, there.tail
      while first > there.head and below(ms, seq, there.entries[first - 1].ms, there.entries[first - 1].seq) do
        first = first - 1
      end
      for at = first, math.min(there.tail, first + 511) do
        local entry = there.entries[at]
        if not entry.wire then entry.wire = wire(entry.reply) end
        entries[at - first + 1] = entry
      end
      found[#found + 1] = { keys[i], entries }
    end
  end
  return #found > 0 and found or false
end

local model = {}

function model.new() return { keys = {}, now = 0, run_id = '', blocked = {} } end

-- A script, or one command, on a database; also tells whether a stream has become longer.
function model.eval(on, now, script, keys, argv)
  db, KEYS, ARGV = on, keys, argv
  db.now, db.longer = now, false
  return answer(pcall(script))
end

function model.call(on, now, args)
  db = on
  db.now, db.longer = now, false
  return answer(pcall(call, unpack(args)))
end

-- XREAD BLOCK key … id …: the answer, or nothing, and then it is kept under `number`.
function model.read(on, number, args)
  db = on
  local keys, ids, n = {}, {}, #args / 2
  for i = 1, n do
    keys[i] = args[i]
    local there = db.keys[args[i]]
    local ms, seq = 0, 0
    if args[n + i] ~= '$' then
      ms, seq = id(args[n + i], 0)
    elseif there and there.entries then
      ms, seq = there.ms, there.seq
    end
    ids[i] = { ms, seq }
  end
  local fine, reply = pcall(read, keys, ids)
  if fine and not reply then
    db.blocked[#db.blocked + 1] = { number = number, keys = keys, ids = ids }
    return false
  end
  return (answer(fine, reply))
end

-- The next of those who wait that waits no longer: its number and its answer.
function model.unblock(on)
  db = on
  for i, waits in ipairs(db.blocked) do
    local fine, reply = pcall(read, waits.keys, waits.ids)
    if fine and reply then
      table.remove(db.blocked, i)
      return waits.number, (answer(fine, reply))
    end
  end
end

-- It waits no longer.
function model.forget(on, number)
  for i, waits in ipairs(on.blocked) do
    if waits.number == number then table.remove(on.blocked, i) end
  end
end

local function copy(value)
  if type(value) ~= 'table' then return value end
  local new = {}
  for k, v in pairs(value) do new[k] = copy(v) end
  return new
end

function model.copy(on)
  local new = copy(on)
  new.blocked = {}
  return new
end

return model
