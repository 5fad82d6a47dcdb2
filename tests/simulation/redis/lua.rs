//! The log's own scripts, run by Lua 5.1 as in Redis, on data that lies in Lua as well (`model.lua`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{BString, Function, Lua, Table, Value as LuaValue};
use redis::Value;

use crate::exchange::{Entry, Key};

/// One interpreter, made once for many schedules; scripts are compiled when first seen.
pub struct Interpreter {
    lua: Lua,
    compiled: RefCell<Vec<(Vec<u8>, Function)>>,
    /// `KEYS`, which are always the same.
    keys: RefCell<Option<Table>>,
    model: Model,
}

struct Model {
    new: Function,
    eval: Function,
    call: Function,
    read: Function,
    unblock: Function,
    forget: Function,
    copy: Function,
}

/// The data of one Redis server.
pub struct Db {
    data: Table,
    /// Stored responses: their encoding is proven elsewhere, so they lie here as they are.
    pub entries: BTreeMap<Key, Rc<Entry>>,
}

impl Db {
    pub fn set(&self, field: &str, value: impl mlua::IntoLua) {
        self.data.raw_set(field, value).unwrap();
    }

    pub fn is_read_only(&self) -> bool {
        self.data.raw_get("read_only").unwrap()
    }

    fn keys(&self) -> Table {
        self.data.raw_get("keys").unwrap()
    }

    pub fn clear(&mut self) {
        let keys = self.keys();
        // Not `Table::clear`: on Lua 5.1 it leaves something on the interpreter's stack, which has an end.
        let names: Vec<LuaValue> = keys.pairs::<LuaValue, LuaValue>().map(|pair| pair.unwrap().0).collect();
        names.into_iter().for_each(|name| keys.raw_set(name, LuaValue::Nil).unwrap());
        self.entries.clear();
    }

    pub fn remove(&self, key: &str) {
        self.keys().raw_set(key, LuaValue::Nil).unwrap();
    }

    /// How many fields a hash has.
    pub fn fields(&self, key: &str) -> usize {
        let value: Option<Table> = self.keys().raw_get(key).unwrap();
        let hash = value.and_then(|value| value.raw_get::<Option<Table>>("hash").unwrap());
        hash.map_or(0, |hash| hash.pairs::<LuaValue, LuaValue>().count())
    }

    pub fn run_id(&self) -> String {
        self.data.raw_get("run_id").unwrap()
    }

    /// A hash's field.
    pub fn field(&self, key: &str, field: &str) -> Option<BString> {
        let value: Option<Table> = self.keys().raw_get(key).unwrap();
        let hash = value.and_then(|value| value.raw_get::<Option<Table>>("hash").unwrap());
        hash.and_then(|hash| hash.raw_get(field).unwrap())
    }
}

impl Interpreter {
    pub fn new() -> mlua::Result<Interpreter> {
        let lua = Lua::new();
        let model: Table = lua.load(include_str!("model.lua")).eval()?;
        let model = Model {
            new: model.get("new")?,
            eval: model.get("eval")?,
            call: model.get("call")?,
            read: model.get("read")?,
            unblock: model.get("unblock")?,
            forget: model.get("forget")?,
            copy: model.get("copy")?,
        };
        Ok(Interpreter { lua, compiled: RefCell::default(), keys: RefCell::default(), model })
    }

    /// Between schedules: what the last ones left goes, all at once, which costs least.
    pub fn tidy(&self) {
        self.lua.gc_collect().unwrap();
        self.lua.gc_stop();
    }

    /// An empty server.
    pub fn db(&self) -> Db {
        Db { data: self.model.new.call(()).unwrap(), entries: BTreeMap::new() }
    }

    /// A replica's copy.
    pub fn copy(&self, db: &Db) -> Db {
        Db { data: self.model.copy.call(&db.data).unwrap(), entries: db.entries.clone() }
    }

    /// A value of no use to the log.
    pub fn set_text(&self, db: &Db, key: &str) {
        let value = self.lua.create_table().unwrap();
        value.raw_set("text", true).unwrap();
        db.keys().raw_set(key, value).unwrap();
    }

    fn list(&self, items: &[Vec<u8>]) -> Table {
        self.lua.create_sequence_from(items.iter().map(|item| BString::from(item.as_slice()))).unwrap()
    }

    /// `EVAL text n key … arg …`. Also tells whether a stream has become longer.
    pub fn eval(&self, db: &Db, now: u64, args: &[Vec<u8>]) -> (Result<Value, String>, bool) {
        let keys: usize = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
        let (keys, argv) = args[3..].split_at(keys);
        let script = self.script(&args[1]);
        let keys = self.keys.borrow_mut().get_or_insert_with(|| self.list(keys)).clone();
        let (reply, longer) = self.model.eval.call((&db.data, now, script, keys, self.list(argv))).unwrap();
        (reply_of(reply), longer)
    }

    fn script(&self, text: &[u8]) -> Function {
        let mut compiled = self.compiled.borrow_mut();
        if let Some((_, function)) = compiled.iter().find(|(there, _)| there == text) {
            return function.clone();
        }
        let function = self.lua.load(text).into_function().unwrap();
        compiled.push((text.to_vec(), function.clone()));
        function
    }

    /// Any other command.
    pub fn call(&self, db: &Db, now: u64, args: &[Vec<u8>]) -> (Result<Value, String>, bool) {
        let (reply, longer) = self.model.call.call((&db.data, now, self.list(args))).unwrap();
        (reply_of(reply), longer)
    }

    /// `XREAD BLOCK STREAMS key … id …`: nothing = it waits, under `number`.
    pub fn read(&self, db: &Db, number: u64, args: &[Vec<u8>]) -> Option<Result<Value, String>> {
        let reply: LuaValue = self.model.read.call((&db.data, number, self.list(args))).unwrap();
        reply.as_string().map(|reply| reply_of(BString::from(&*reply.as_bytes())))
    }

    /// The next of those who wait that waits no longer.
    pub fn unblock(&self, db: &Db) -> Option<(u64, Result<Value, String>)> {
        let (number, reply): (Option<u64>, Option<BString>) = self.model.unblock.call(&db.data).unwrap();
        Some((number?, reply_of(reply?)))
    }

    /// It has waited long enough.
    pub fn forget(&self, db: &Db, number: u64) {
        self.model.forget.call::<()>((&db.data, number)).unwrap();
    }
}

/// Reads a reply as it goes over the wire; what the model writes is well formed.
fn reply_of(wire: BString) -> Result<Value, String> {
    let mut rest = wire.as_slice();
    if let [b'-', message @ ..] = rest {
        return Err(String::from_utf8_lossy(message).trim_end().to_owned());
    }
    Ok(value(&mut rest))
}

fn value(rest: &mut &[u8]) -> Value {
    let wire = *rest;
    let end = wire.iter().position(|byte| *byte == b'\r').unwrap();
    let line = &wire[1..end];
    *rest = &wire[end + 2..];
    match wire[0] {
        b'+' => Value::SimpleString(String::from_utf8_lossy(line).into_owned()),
        b'*' => {
            let length = number(line) as usize;
            let mut items = Vec::with_capacity(length);
            for _ in 0..length {
                items.push(value(rest));
            }
            Value::Array(items)
        }
        b'$' if line == b"-1" => Value::Nil,
        b'$' => {
            let length = number(line) as usize;
            let bytes = rest[..length].to_vec();
            *rest = &rest[length + 2..];
            Value::BulkString(bytes)
        }
        _ => Value::Int(number(line)),
    }
}

fn number(line: &[u8]) -> i64 {
    std::str::from_utf8(line).unwrap().parse().unwrap()
}
