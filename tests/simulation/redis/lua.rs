//! The log's own scripts, run by Lua 5.1 as in Redis, against a [`Db`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Table, Value as LuaValue};
use redis::Value;

use super::db::Db;

/// One interpreter, made once for many schedules; scripts are compiled when first seen.
pub struct Interpreter {
    lua: Lua,
    compiled: RefCell<BTreeMap<Vec<u8>, Function>>,
    db: Rc<RefCell<Db>>,
}

impl Interpreter {
    pub fn new() -> mlua::Result<Interpreter> {
        let (lua, db) = (Lua::new(), Rc::new(RefCell::new(Db::default())));
        let api = lua.create_table()?;
        let there = Rc::clone(&db);
        let call = lua.create_function(move |lua, args: MultiValue| call(lua, &there, &args))?;
        api.set("call", call)?;
        let error_reply = |lua: &Lua, message: mlua::String| {
            let table = lua.create_table()?;
            table.set("err", message)?;
            Ok(table)
        };
        api.set("error_reply", lua.create_function(error_reply)?)?;
        lua.globals().set("redis", api)?;
        Ok(Interpreter { lua, compiled: RefCell::default(), db })
    }

    /// `EVAL text n key … arg …`.
    pub fn eval(&self, db: &mut Db, args: &[&[u8]]) -> Result<Value, String> {
        std::mem::swap(db, &mut self.db.borrow_mut());
        let result = self.run(args).map_err(|error| error.to_string());
        std::mem::swap(db, &mut self.db.borrow_mut());
        result?
    }

    fn run(&self, args: &[&[u8]]) -> mlua::Result<Result<Value, String>> {
        let keys: usize = std::str::from_utf8(args[2]).unwrap().parse().unwrap();
        let list = |part: &[&[u8]]| -> mlua::Result<Table> {
            let table = self.lua.create_table_with_capacity(part.len(), 0)?;
            for (i, arg) in part.iter().enumerate() {
                table.raw_set(i + 1, self.lua.create_string(arg)?)?;
            }
            Ok(table)
        };
        let globals = self.lua.globals();
        globals.raw_set("KEYS", list(&args[3..3 + keys])?)?;
        globals.raw_set("ARGV", list(&args[3 + keys..])?)?;
        let function = {
            let mut compiled = self.compiled.borrow_mut();
            match compiled.get(args[1]) {
                Some(function) => function.clone(),
                None => {
                    let function = self.lua.load(args[1]).into_function()?;
                    compiled.insert(args[1].to_vec(), function.clone());
                    function
                }
            }
        };
        let reply: LuaValue = function.call(())?;
        to_redis(&reply)
    }
}

fn call(lua: &Lua, db: &RefCell<Db>, args: &MultiValue) -> mlua::Result<LuaValue> {
    let texts: Vec<mlua::String> = args
        .iter()
        .map(|arg| match arg {
            LuaValue::String(text) => Ok(text.clone()),
            LuaValue::Integer(n) => lua.create_string(n.to_string()),
            LuaValue::Number(n) => lua.create_string(format!("{n:.0}")),
            _ => Err(mlua::Error::runtime("Lua redis lib command arguments must be strings or integers")),
        })
        .collect::<mlua::Result<_>>()?;
    let bytes: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
    let parts: Vec<&[u8]> = bytes.iter().map(|text| &**text).collect();
    match db.borrow_mut().call(&parts) {
        Ok(value) => to_lua(lua, &value),
        Err(message) => Err(mlua::Error::runtime(message)),
    }
}

fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<LuaValue> {
    Ok(match value {
        Value::Nil => LuaValue::Boolean(false),
        Value::Int(n) => LuaValue::Number(*n as f64),
        Value::BulkString(bytes) => LuaValue::String(lua.create_string(bytes)?),
        Value::SimpleString(status) => {
            let table = lua.create_table()?;
            table.raw_set("ok", lua.create_string(status)?)?;
            LuaValue::Table(table)
        }
        Value::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (i, item) in items.iter().enumerate() {
                table.raw_set(i + 1, to_lua(lua, item)?)?;
            }
            LuaValue::Table(table)
        }
        other => return Err(mlua::Error::runtime(format!("no reply of the model: {other:?}"))),
    })
}

fn to_redis(value: &LuaValue) -> mlua::Result<Result<Value, String>> {
    Ok(Ok(match value {
        LuaValue::Nil | LuaValue::Boolean(false) => Value::Nil,
        LuaValue::Boolean(true) => Value::Int(1),
        LuaValue::Integer(n) => Value::Int(*n),
        LuaValue::Number(n) => Value::Int(*n as i64),
        LuaValue::String(text) => Value::BulkString(text.as_bytes().to_vec()),
        LuaValue::Table(table) => {
            if let LuaValue::String(message) = table.raw_get("err")? {
                return Ok(Err(message.to_string_lossy()));
            }
            let mut items = Vec::new();
            for item in table.sequence_values::<LuaValue>() {
                match to_redis(&item?)? {
                    Ok(item) => items.push(item),
                    Err(message) => return Ok(Err(message)),
                }
            }
            Value::Array(items)
        }
        _ => return Err(mlua::Error::runtime("no reply of a script")),
    }))
}
