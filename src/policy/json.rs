//! JSON that every parser understands alike. Objects with a repeated member are refused, because one parser takes
//! the first and another the last: what the cache read would not be what the backend did.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses a whole body; `None` if it is not JSON, or an object in it names a member twice.
pub fn parse_strict(body: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Strict>(body).ok().map(|strict| strict.0)
}

/// A member by dotted path. Names that differ from it in case alone make it unclear (some parsers ignore case).
pub(crate) fn member<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| {
        let object = value.as_object()?;
        if spellings(object, name) > 1 { None } else { object.get(name) }
    })
}

/// Whether the object has a member of this name in any case.
pub(crate) fn has_spelling(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| spellings(object, name) > 0)
}

fn spellings(object: &Map<String, Value>, name: &str) -> usize {
    // Upper case first: it also folds `ſ` to `S`.
    let fold = |text: &str| text.to_uppercase().to_lowercase();
    let wanted = fold(name);
    object.keys().filter(|key| key.as_str() == name || fold(key) == wanted).count()
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a repeated member"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repeats_are_refused_at_every_depth() {
        assert!(parse_strict(br#"{"a":1,"b":[{"c":2}]}"#).is_some());
        assert!(parse_strict(br#"{"a":1,"a":1}"#).is_none());
        assert!(parse_strict(br#"{"a":1,"\u0061":1}"#).is_none());
        assert!(parse_strict(br#"[{"x":{"a":1,"a":2}}]"#).is_none());
        assert!(parse_strict(br#"{"a":1} {}"#).is_none());
        assert!(parse_strict(b"").is_none());
        assert!(parse_strict(&[b'['; 100_000]).is_none());
    }

    #[test]
    fn members_by_path() {
        let value = parse_strict(br#"{"a":{"b":"c"},"Action":"x","action":"y"}"#).unwrap();
        assert_eq!(member(&value, "a.b"), Some(&Value::String("c".into())));
        assert_eq!(member(&value, "a.c"), None);
        assert_eq!(member(&value, "action"), None);
        assert!(has_spelling(&value, "ACTION"));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}:,\"a0-9.eE+ntrufalse -]{0,24}") {
            if let Some(value) = parse_strict(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str::<Value>(&text).ok());
            }
        }
    }
}
