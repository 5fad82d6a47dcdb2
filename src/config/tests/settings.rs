//! The table of settings against the structs, and against the reference for readers.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Visitor};

use crate::config::env::{Kind, SETTINGS, variable};
use crate::config::file::*;
use crate::config::values::Secret;

/// The keys that a struct accepts: what its derived implementation asks a deserializer for.
fn keys<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    struct Asked<'a>(&'a mut Vec<&'static str>);
    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("asked"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields);
            self.deserialize_any(visitor)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut asked = Vec::new();
    let _ = T::deserialize(Asked(&mut asked));
    asked
}

/// Every path that the structs accept. What is a table of many shapes (`subject`, `when`, `body`) is one setting.
fn paths_of_structs() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut section = |prefix: &str, keys: Vec<&str>| {
        for key in keys {
            let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            all.insert(path);
        }
    };
    section("", keys::<File>());
    section("upstream", keys::<Upstream>());
    section("tls", keys::<Tls>());
    section("server", keys::<Server>());
    section("admin", keys::<Admin>());
    section("redis", keys::<Redis>());
    section("cache", keys::<Cache>());
    section("log", keys::<Log>());
    section("defaults", keys::<Defaults>());
    section("defaults.query", keys::<Query>());
    section("keys.*", keys::<Keys>());
    section("route.*", keys::<Route>());
    section("route.*.query", keys::<Query>());
    section("purge.*", keys::<Purge>());
    let sections: BTreeSet<String> = all
        .iter()
        .filter(|p| all.iter().any(|q| q.starts_with(&format!("{p}.")) || q.starts_with(&format!("{p}.*"))))
        .cloned()
        .collect();
    // A name is what a variable is found by; it cannot be set by one.
    all.retain(|p| !sections.contains(p) && p != "route.*.name" && p != "keys.*.name");
    all
}

#[test]
fn every_setting_has_a_variable() {
    let table: BTreeSet<String> = SETTINGS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(table.len(), SETTINGS.len(), "a setting is listed twice");
    assert_eq!(table, paths_of_structs(), "src/config/env.rs (left) against src/config/file.rs (right)");
}

#[test]
fn no_two_settings_share_a_variable() {
    let names: BTreeSet<String> = SETTINGS.iter().map(|(path, _)| variable(path)).collect();
    assert_eq!(names.len(), SETTINGS.len());
}

#[test]
fn secrets_of_the_table_are_secrets_of_the_structs() {
    let secret: BTreeSet<&str> =
        SETTINGS.iter().filter(|(_, k)| *k == Kind::Secret).map(|(p, _)| *p).collect();
    let want = [
        "admin.token",
        "redis.url",
        "redis.password",
        "redis.sentinel_password",
        "cache.secret",
        "keys.*.secret",
    ];
    assert_eq!(secret, want.into_iter().collect());
    assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "***");
}

#[test]
fn the_reference_describes_every_setting() {
    let reference = include_str!("../../../docs/configuration.md");
    for (path, _) in SETTINGS {
        let (section, key) = match path.rsplit_once('.') {
            Some(("defaults.query" | "route.*.query", key)) => ("query", key),
            Some((section, key)) => (section.trim_end_matches(".*"), key),
            None => ("top level", *path),
        };
        let heading = reference
            .split("\n## ")
            .find(|part| part.lines().next().is_some_and(|line| line.contains(&format!("`{section}`"))))
            .unwrap_or_else(|| panic!("docs/configuration.md has no section `{section}`"));
        assert!(heading.contains(&format!("| `{key}` |")), "docs/configuration.md: `{key}` in `{section}`");
    }
    for (path, _) in SETTINGS.iter().filter(|(path, _)| !path.contains('*')) {
        let name = variable(path);
        assert!(reference.contains(&format!("`{name}`")), "docs/configuration.md does not name {name}");
    }
}
