//! The data of one Redis server, and the commands that the log uses, as Redis 7 answers them.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use redis::Value;

use crate::exchange::Entry;

/// A stream's id.
pub type Id = (u64, u64);

#[derive(Clone)]
pub enum Data {
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Stream(Stream),
    Text,
}

#[derive(Clone, Default)]
pub struct Stream {
    entries: VecDeque<(Id, Rc<Vec<Vec<u8>>>)>,
    last: Id,
}

/// The data.
#[derive(Clone, Default)]
pub struct Db {
    pub keys: BTreeMap<Vec<u8>, Data>,
    /// Stored responses: their encoding is proven elsewhere, so they lie here as they are.
    pub entries: BTreeMap<crate::exchange::Key, Rc<Entry>>,
    pub run_id: String,
    /// `NOREPLICAS`: a primary that its replica has left.
    pub read_only: bool,
    /// What `MAXLEN ~` comes to.
    pub keep: Option<usize>,
    /// For automatic ids, milliseconds.
    pub now: u64,
}

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const WRITES: [&str; 8] = ["XADD", "XDEL", "HSET", "HSETNX", "HDEL", "HINCRBY", "DEL", "XTRIM"];

type Reply = Result<Value, String>;

fn text(bytes: &[u8]) -> Value {
    Value::BulkString(bytes.to_vec())
}

fn id_text(id: Id) -> Vec<u8> {
    format!("{}-{}", id.0, id.1).into_bytes()
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

/// `5-1`, or `5` for all of that millisecond.
fn id(bytes: &[u8], missing: u64) -> Id {
    match bytes {
        b"-" => (0, 0),
        b"+" => (u64::MAX, u64::MAX),
        _ => match bytes.iter().position(|b| *b == b'-') {
            Some(dash) => (number(&bytes[..dash]), number(&bytes[dash + 1..])),
            None => (number(bytes), missing),
        },
    }
}

impl Db {
    fn hash(&mut self, key: &[u8]) -> Result<Option<&mut BTreeMap<Vec<u8>, Vec<u8>>>, String> {
        match self.keys.get_mut(key) {
            None => Ok(None),
            Some(Data::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(WRONGTYPE.to_owned()),
        }
    }

    fn hash_mut(&mut self, key: &[u8]) -> Result<&mut BTreeMap<Vec<u8>, Vec<u8>>, String> {
        match self.keys.entry(key.to_vec()).or_insert_with(|| Data::Hash(BTreeMap::new())) {
            Data::Hash(hash) => Ok(hash),
            _ => Err(WRONGTYPE.to_owned()),
        }
    }

    fn stream(&mut self, key: &[u8]) -> Result<Option<&mut Stream>, String> {
        match self.keys.get_mut(key) {
            None => Ok(None),
            Some(Data::Stream(stream)) => Ok(Some(stream)),
            Some(_) => Err(WRONGTYPE.to_owned()),
        }
    }

    /// One command.
    pub fn call(&mut self, args: &[&[u8]]) -> Reply {
        let name = std::str::from_utf8(args[0]).unwrap();
        if self.read_only && WRITES.contains(&name) {
            return Err("NOREPLICAS Not enough good replicas to write.".to_owned());
        }
        let key = args.get(1).copied().unwrap_or_default();
        match name {
            "TYPE" => Ok(Value::SimpleString(
                match self.keys.get(key) {
                    None => "none",
                    Some(Data::Hash(_)) => "hash",
                    Some(Data::Stream(_)) => "stream",
                    Some(Data::Text) => "string",
                }
                .to_owned(),
            )),
            "INFO" => {
                Ok(text(format!("# Server\r\nredis_version:7.0\r\nrun_id:{}\r\n", self.run_id).as_bytes()))
            }
            "DEL" => {
                let gone = args[1..].iter().filter(|key| self.keys.remove(**key).is_some()).count();
                Ok(Value::Int(gone as i64))
            }
            "EXISTS" => Ok(Value::Int(i64::from(self.keys.contains_key(key)))),
            _ if name.starts_with('H') => self.hash_command(name, key, &args[2..]),
            _ if name.starts_with('X') => self.stream_command(name, key, &args[2..]),
            _ => Err(format!("ERR unknown command '{name}'")),
        }
    }

    fn hash_command(&mut self, name: &str, key: &[u8], args: &[&[u8]]) -> Reply {
        let nothing = BTreeMap::new();
        match name {
            "HSET" => {
                let hash = self.hash_mut(key)?;
                let new =
                    args.chunks(2).filter(|p| hash.insert(p[0].to_vec(), p[1].to_vec()).is_none()).count();
                Ok(Value::Int(new as i64))
            }
            "HSETNX" => {
                let hash = self.hash_mut(key)?;
                let new = !hash.contains_key(args[0]);
                if new {
                    hash.insert(args[0].to_vec(), args[1].to_vec());
                }
                Ok(Value::Int(i64::from(new)))
            }
            "HINCRBY" => {
                let value = self.hash_mut(key)?.entry(args[0].to_vec()).or_insert_with(|| b"0".to_vec());
                let Some(old) = std::str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok()) else {
                    return Err("ERR hash value is not an integer".to_owned());
                };
                let new = old + number(args[1]) as i64;
                *value = new.to_string().into_bytes();
                Ok(Value::Int(new))
            }
            "HDEL" => {
                let Some(hash) = self.hash(key)? else { return Ok(Value::Int(0)) };
                let gone = args.iter().filter(|field| hash.remove(**field).is_some()).count();
                if hash.is_empty() {
                    self.keys.remove(key);
                }
                Ok(Value::Int(gone as i64))
            }
            _ => {
                let hash = self.hash(key)?.map_or(&nothing, |hash| &*hash);
                let get = |field: &[u8]| hash.get(field).map_or(Value::Nil, |value| text(value));
                match name {
                    "HGET" => Ok(get(args[0])),
                    "HMGET" => Ok(Value::Array(args.iter().map(|field| get(field)).collect())),
                    "HGETALL" => {
                        Ok(Value::Array(hash.iter().flat_map(|(f, v)| [text(f), text(v)]).collect()))
                    }
                    "HLEN" => Ok(Value::Int(hash.len() as i64)),
                    "HEXISTS" => Ok(Value::Int(i64::from(hash.contains_key(args[0])))),
                    _ => Err(format!("ERR unknown command '{name}'")),
                }
            }
        }
    }

    fn stream_command(&mut self, name: &str, key: &[u8], args: &[&[u8]]) -> Reply {
        match name {
            "XADD" => self.xadd(key, args),
            "XINFO" => {
                let Some(stream) = self.stream(args[0])? else { return Err("ERR no such key".to_owned()) };
                let end = id_text(stream.last);
                Ok(Value::Array(vec![
                    text(b"length"),
                    Value::Int(stream.entries.len() as i64),
                    text(b"last-generated-id"),
                    text(&end),
                ]))
            }
            "XRANGE" => {
                let (from, to) = (id(args[0], 0), id(args[1], u64::MAX));
                let count = args.get(3).map_or(usize::MAX, |n| number(n) as usize);
                let Some(stream) = self.stream(key)? else { return Ok(Value::Array(Vec::new())) };
                Ok(stream.entries(from, to, count))
            }
            "XDEL" => {
                let Some(stream) = self.stream(key)? else { return Ok(Value::Int(0)) };
                let before = stream.entries.len();
                stream.entries.retain(|(there, _)| !args.iter().any(|arg| id(arg, 0) == *there));
                Ok(Value::Int((before - stream.entries.len()) as i64))
            }
            "XTRIM" => {
                let Some(stream) = self.stream(key)? else { return Ok(Value::Int(0)) };
                stream.trim(number(args[1]) as usize);
                Ok(Value::Int(0))
            }
            _ => Err(format!("ERR unknown command '{name}'")),
        }
    }

    fn xadd(&mut self, key: &[u8], args: &[&[u8]]) -> Reply {
        let (now, keep) = (self.now, self.keep);
        let at = if args[0] == b"MAXLEN" { 3 } else { 0 };
        let stream = match self.keys.entry(key.to_vec()).or_insert_with(|| Data::Stream(Stream::default())) {
            Data::Stream(stream) => stream,
            _ => return Err(WRONGTYPE.to_owned()),
        };
        let new = match args[at] {
            b"*" if stream.last.0 >= now => (stream.last.0, stream.last.1 + 1),
            b"*" => (now, 0),
            given => id(given, 0),
        };
        if new <= stream.last {
            return Err(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item".to_owned()
            );
        }
        stream.last = new;
        stream.entries.push_back((new, Rc::new(args[at + 1..].iter().map(|arg| arg.to_vec()).collect())));
        if let (true, Some(keep)) = (at > 0, keep) {
            stream.trim(keep);
        }
        Ok(text(&id_text(new)))
    }

    /// `XREAD STREAMS key … id …`; nothing = nil.
    pub fn read_streams(&mut self, keys: &[Vec<u8>], after: &[Id]) -> Result<Option<Value>, String> {
        let mut found = Vec::new();
        for (key, after) in keys.iter().zip(after) {
            if let Some(stream) = self.stream(key)?
                && stream.entries.back().is_some_and(|(last, _)| last > after)
            {
                let entries = stream.entries((after.0, after.1 + 1), (u64::MAX, u64::MAX), 512);
                found.push(Value::Array(vec![text(key), entries]));
            }
        }
        Ok((!found.is_empty()).then_some(Value::Array(found)))
    }

    /// Where a stream ends: what `$` means.
    pub fn end_of(&mut self, key: &[u8]) -> Id {
        self.stream(key).ok().flatten().map_or((0, 0), |stream| stream.last)
    }
}

impl Stream {
    fn entries(&self, from: Id, to: Id, count: usize) -> Value {
        let within = self.entries.iter().filter(|(id, _)| *id >= from && *id <= to).take(count);
        Value::Array(
            within
                .map(|(id, fields)| {
                    Value::Array(vec![
                        text(&id_text(*id)),
                        Value::Array(fields.iter().map(|f| text(f)).collect()),
                    ])
                })
                .collect(),
        )
    }

    fn trim(&mut self, keep: usize) {
        while self.entries.len() > keep {
            self.entries.pop_front();
        }
    }
}

/// Reads an id as `XREAD` is given it.
pub fn place(text: &[u8]) -> Id {
    id(text, 0)
}
