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
    ending: Function,
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
        self.keys().clear().unwrap();
        self.entries.clear();
    }

    pub fn remove(&self, key: &str) {
        self.keys().raw_set(key, LuaValue::Nil).unwrap();
    }

    /// Whether a hash has a field.
    pub fn has_field(&self, key: &str, field: &str) -> bool {
        let value: Option<Table> = self.keys().raw_get(key).unwrap();
        let hash = value.and_then(|value| value.raw_get::<Option<Table>>("hash").unwrap());
        hash.is_some_and(|hash| hash.contains_key(field).unwrap())
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
            ending: model.get("ending")?,
            copy: model.get("copy")?,
        };
        Ok(Interpreter { lua, compiled: RefCell::default(), keys: RefCell::default(), model })
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

    fn list(&self, items: &[Vec<u8>]) -> mlua::Result<Table> {
        self.lua.create_sequence_from(items.iter().map(|item| BString::from(item.as_slice())))
    }

    /// `EVAL text n key … arg …`.
    pub fn eval(&self, db: &Db, args: &[Vec<u8>]) -> Result<Value, String> {
        let run = || -> mlua::Result<Result<Value, String>> {
            let keys: usize = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
            let (keys, argv) = args[3..].split_at(keys);
            if self.keys.borrow().is_none() {
                *self.keys.borrow_mut() = Some(self.list(keys)?);
            }
            let script = self.script(&args[1])?;
            let keys = self.keys.borrow().clone();
            to_redis(&self.model.eval.call((&db.data, script, keys, self.list(argv)?))?)
        };
        run().map_err(|error| error.to_string())?
    }

    fn script(&self, text: &[u8]) -> mlua::Result<Function> {
        let mut compiled = self.compiled.borrow_mut();
        if let Some((_, function)) = compiled.iter().find(|(there, _)| there == text) {
            return Ok(function.clone());
        }
        let function = self.lua.load(text).into_function()?;
        compiled.push((text.to_vec(), function.clone()));
        Ok(function)
    }

    /// Any other command.
    pub fn call(&self, db: &Db, args: &[Vec<u8>]) -> Result<Value, String> {
        let run = || to_redis(&self.model.call.call((&db.data, self.list(args)?))?);
        run().map_err(|error| error.to_string())?
    }

    /// `XREAD STREAMS key … id …`; nothing = `None`.
    pub fn read(&self, db: &Db, keys: &[Vec<u8>], ids: &[Vec<u8>]) -> Result<Option<Value>, String> {
        let run = || to_redis(&self.model.read.call((&db.data, self.list(keys)?, self.list(ids)?))?);
        let value: Result<Value, String> = run().map_err(|error| error.to_string())?;
        Ok(Some(value?).filter(|value| *value != Value::Nil))
    }

    /// What `$` means.
    pub fn ending(&self, db: &Db, key: &[u8]) -> Vec<u8> {
        let ending: BString = self.model.ending.call((&db.data, BString::from(key))).unwrap();
        ending.to_vec()
    }
}

fn to_redis(value: &LuaValue) -> mlua::Result<Result<Value, String>> {
    Ok(Ok(match value {
        LuaValue::Nil | LuaValue::Boolean(false) => Value::Nil,
        LuaValue::Boolean(true) => Value::Int(1),
        LuaValue::Integer(n) => Value::Int(*n),
        LuaValue::Number(n) => Value::Int(*n as i64),
        LuaValue::String(text) => Value::BulkString(text.as_bytes().to_vec()),
        LuaValue::Table(table) => {
            let length = table.raw_len();
            if length == 0
                && let Some(message) = table.raw_get::<Option<mlua::String>>("err")?
            {
                return Ok(Err(message.to_string_lossy()));
            }
            let mut items = Vec::with_capacity(length);
            for i in 1..=length {
                match to_redis(&table.raw_get(i)?)? {
                    Ok(item) => items.push(item),
                    Err(message) => return Ok(Err(message)),
                }
            }
            Value::Array(items)
        }
        _ => return Err(mlua::Error::runtime("no reply of a script")),
    }))
}
