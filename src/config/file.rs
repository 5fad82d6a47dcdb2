//! `proxy.toml` exactly as typed.
//!
//! Nothing is required here and nothing has a default: what is missing, out of range or contradictory is for
//! [`super::build`] to say, which sees everything at once. This module only says which keys exist and what kind
//! of value each takes; unknown keys are refused. `docs/configuration.md` describes every key.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::values::{
    FileName, Networks, OneOrMore, Secret, Shared, Size, Span, Switch, Text, Wanted, WordOr, Words,
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) listen: Option<Text>,
    /// `upstream = "…"` has been turned into `[upstream] url = "…"` before this is read.
    pub(crate) upstream: Upstream,
    pub(crate) tls: Option<Spanned<Tls>>,
    pub(crate) server: Server,
    pub(crate) admin: Admin,
    pub(crate) redis: Option<Redis>,
    pub(crate) cache: Cache,
    pub(crate) log: Log,
    pub(crate) defaults: Defaults,
    pub(crate) keys: Vec<Spanned<Keys>>,
    pub(crate) route: Vec<Spanned<Route>>,
    pub(crate) purge: Vec<Spanned<Purge>>,
}

/// `[upstream]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a URL such as \"http://127.0.0.1:8000\", or a table")]
pub(crate) struct Upstream {
    pub(crate) url: Option<Text>,
    pub(crate) preserve_host: Option<bool>,
    pub(crate) connect_timeout: Option<Spanned<Span>>,
    pub(crate) first_byte_timeout: Option<Spanned<Span>>,
    pub(crate) idle_timeout: Option<Spanned<Span>>,
    pub(crate) keep_alive: Option<Spanned<Span>>,
    pub(crate) max_connections: Option<Spanned<i64>>,
    pub(crate) ca_file: Option<Text>,
}

/// `[server]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) header_timeout: Option<Spanned<Span>>,
    pub(crate) idle_timeout: Option<Spanned<Span>>,
    pub(crate) max_header_bytes: Option<Spanned<Size>>,
    pub(crate) max_connections: Option<Spanned<i64>>,
    pub(crate) max_streams: Option<Spanned<i64>>,
    pub(crate) drain_timeout: Option<Spanned<Span>>,
    pub(crate) drain_delay: Option<Spanned<Span>>,
    pub(crate) trust_forwarded: Option<Switch<Networks>>,
    pub(crate) probes: Option<bool>,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) certificate: Option<Text>,
    pub(crate) key: Option<Text>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) listen: Option<Text>,
    pub(crate) token: Option<Spanned<Secret>>,
    pub(crate) enabled: Option<bool>,
}

/// `[redis]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Redis {
    pub(crate) url: Option<Spanned<Secret>>,
    pub(crate) host: Option<Text>,
    pub(crate) port: Option<Spanned<i64>>,
    pub(crate) username: Option<Text>,
    pub(crate) password: Option<Spanned<Secret>>,
    pub(crate) database: Option<Spanned<i64>>,
    pub(crate) tls: Option<Spanned<bool>>,
    pub(crate) ca_file: Option<Text>,
    pub(crate) cert_file: Option<Text>,
    pub(crate) key_file: Option<Text>,
    pub(crate) sentinels: Option<Spanned<Vec<Text>>>,
    pub(crate) service: Option<Text>,
    pub(crate) sentinel_username: Option<Text>,
    pub(crate) sentinel_password: Option<Spanned<Secret>>,
    pub(crate) cluster: Option<Spanned<Vec<Text>>>,
    pub(crate) prefix: Option<Text>,
    pub(crate) pool: Option<Spanned<i64>>,
    pub(crate) timeout: Option<Spanned<Span>>,
    pub(crate) connect_timeout: Option<Spanned<Span>>,
    pub(crate) append_timeout: Option<Spanned<Span>>,
    pub(crate) max_pending_writes: Option<Spanned<i64>>,
    pub(crate) max_pending_bytes: Option<Spanned<Size>>,
}

/// `[cache]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    pub(crate) namespace: Option<Text>,
    pub(crate) memory: Option<Spanned<Size>>,
    pub(crate) max_body: Option<Spanned<Size>>,
    pub(crate) max_fill: Option<Spanned<Size>>,
    pub(crate) max_variants: Option<Spanned<i64>>,
    pub(crate) max_tags: Option<Spanned<i64>>,
    pub(crate) mark_slots: Option<Spanned<i64>>,
    pub(crate) secret: Option<Spanned<Secret>>,
    pub(crate) name: Option<Text>,
    pub(crate) show_key: Option<bool>,
    pub(crate) x_cache: Option<bool>,
    pub(crate) hit_for_miss: Option<Spanned<Span>>,
    pub(crate) coalesce_timeout: Option<Spanned<Span>>,
    pub(crate) max_tag_body: Option<Spanned<Size>>,
    pub(crate) max_key_body: Option<Spanned<Size>>,
    pub(crate) coherence: Option<Spanned<Coherence>>,
    pub(crate) lease: Option<Spanned<Span>>,
    pub(crate) alone: Option<Spanned<Alone>>,
    pub(crate) on_unreachable_log: Option<Spanned<UnreachableLog>>,
}

/// `cache.coherence`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Coherence {
    Strong,
    Eventual,
}

/// `cache.alone`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Alone {
    Serve,
    Bypass,
}

/// `cache.on_unreachable_log`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UnreachableLog {
    Forward,
    Refuse,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: Option<Text>,
    pub(crate) format: Option<LogFormat>,
    pub(crate) access: Option<Switch<FileName>>,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Json,
    Human,
}

/// `defaults.cache`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UnlistedMode {
    Pass,
    Rfc,
}

/// `defaults.credentials`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Credentials {
    Bypass,
    Rfc,
}

/// `origin`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    Stricter,
    Ignore,
    Honour,
}

/// `[defaults]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Defaults {
    pub(crate) cache: Option<UnlistedMode>,
    pub(crate) credentials: Option<Spanned<Credentials>>,
    pub(crate) ttl: Option<Spanned<Span>>,
    pub(crate) negative_ttl: Option<Spanned<Span>>,
    pub(crate) stale_while_revalidate: Option<Spanned<Span>>,
    pub(crate) stale_if_error: Option<Spanned<Span>>,
    pub(crate) keep: Option<Spanned<Span>>,
    pub(crate) jitter: Option<Spanned<f64>>,
    pub(crate) origin: Option<Spanned<Origin>>,
    pub(crate) client_refresh: Option<bool>,
    pub(crate) store_set_cookie: Option<bool>,
    pub(crate) store_errors: Option<bool>,
    pub(crate) subject: Option<Spanned<Subject>>,
    pub(crate) query: Option<Query>,
    pub(crate) ignore: Option<Vec<Text>>,
    pub(crate) vary: Option<Vec<Text>>,
    pub(crate) target_list: Option<Vec<Text>>,
    pub(crate) compress: Option<Spanned<Compress>>,
    pub(crate) max_body: Option<Spanned<Size>>,
    pub(crate) coalesce: Option<Spanned<Switch<Shared>>>,
    pub(crate) no_vary_search: Option<bool>,
    pub(crate) fetch_whole: Option<Switch<Size>>,
}

/// `[[keys]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) name: Option<Text>,
    pub(crate) secret: Option<Spanned<Secret>>,
    pub(crate) pem: Option<Text>,
    pub(crate) pem_file: Option<Text>,
    pub(crate) jwks_file: Option<Text>,
    pub(crate) jwks_url: Option<Text>,
    pub(crate) refresh: Option<Spanned<Span>>,
}

/// `[[route]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) name: Option<Text>,
    #[serde(rename = "match")]
    pub(crate) pattern: Option<Text>,
    pub(crate) host: Option<Text>,
    pub(crate) when: Option<When>,
    pub(crate) cache: Option<bool>,
    pub(crate) ttl: Option<Spanned<Span>>,
    pub(crate) negative_ttl: Option<Spanned<Span>>,
    pub(crate) stale_while_revalidate: Option<Spanned<Span>>,
    pub(crate) stale_if_error: Option<Spanned<Span>>,
    pub(crate) keep: Option<Spanned<Span>>,
    pub(crate) jitter: Option<Spanned<f64>>,
    pub(crate) origin: Option<Spanned<Origin>>,
    pub(crate) client_refresh: Option<bool>,
    pub(crate) store_set_cookie: Option<bool>,
    pub(crate) store_errors: Option<bool>,
    pub(crate) subject: Option<Spanned<Subject>>,
    pub(crate) public: Option<Spanned<bool>>,
    pub(crate) query: Option<Query>,
    pub(crate) ignore: Option<Vec<Text>>,
    pub(crate) vary: Option<Vec<Text>>,
    pub(crate) target_list: Option<Vec<Text>>,
    pub(crate) body: Option<Spanned<Body>>,
    pub(crate) tags: Option<Vec<Text>>,
    pub(crate) compress: Option<Spanned<Compress>>,
    pub(crate) max_body: Option<Spanned<Size>>,
    pub(crate) coalesce: Option<Spanned<Switch<Shared>>>,
    pub(crate) no_vary_search: Option<bool>,
    pub(crate) fetch_whole: Option<Switch<Size>>,
}

/// `[[purge]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Purge {
    pub(crate) on: Option<Text>,
    pub(crate) host: Option<Text>,
    pub(crate) when: Option<When>,
    pub(crate) tags: Option<Vec<Text>>,
    pub(crate) paths: Option<Vec<Text>>,
    pub(crate) routes: Option<Vec<Text>>,
    pub(crate) subject: Option<Spanned<PurgeSubject>>,
    pub(crate) settle: Option<Spanned<Span>>,
    pub(crate) soft: Option<Spanned<bool>>,
}

/// `purge.subject`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PurgeSubject {
    Same,
}

/// `when`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct When {
    pub(crate) header: BTreeMap<Text, Spanned<Switch<Wanted>>>,
    pub(crate) query: BTreeMap<Text, Spanned<Switch<Wanted>>>,
}

/// `query`
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) ignore: Vec<Text>,
    pub(crate) only: Option<Vec<Text>>,
    pub(crate) sets: Vec<Text>,
}

/// `compress`
pub(crate) type Compress = WordOr<CompressTable>;

/// `compress = { … }`
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CompressTable {
    pub(crate) coding: Option<Spanned<CodingName>>,
    pub(crate) level: Option<Spanned<i64>>,
    pub(crate) min_size: Option<Spanned<Size>>,
    pub(crate) types: Option<Vec<Text>>,
}

/// `compress.coding`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CodingName {
    Gzip,
    Br,
    Zstd,
}

impl Words for CompressTable {
    const WORDS: &'static [&'static str] = &["off", "gzip", "br", "zstd"];
    const FORM: &'static str = "\"off\", \"gzip\", \"br\", \"zstd\" or { coding = \"gzip\", level = 6, min_size = \"1KiB\", types = [\"text/*\"] }";
}

/// `subject`
pub(crate) type Subject = WordOr<SubjectTable>;

/// `subject = { … }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SubjectTable {
    pub(crate) header: Option<Text>,
    pub(crate) cookie: Option<Text>,
    pub(crate) jwt: Option<Spanned<Jwt>>,
}

impl Words for SubjectTable {
    const WORDS: &'static [&'static str] = &["none"];
    const FORM: &'static str =
        "\"none\", { header = \"authorization\" }, { cookie = \"sid\" } or { jwt = { keys = \"main\" } }";
}

/// `subject = { jwt = { … } }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Jwt {
    pub(crate) keys: Option<Text>,
    pub(crate) claim: Option<Text>,
    pub(crate) claims: Option<Spanned<Vec<Text>>>,
    pub(crate) from: Option<Spanned<TokenFrom>>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<OneOrMore>,
    pub(crate) algorithms: Option<Spanned<Vec<Text>>>,
    pub(crate) leeway: Option<Spanned<Span>>,
}

/// `from`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "{ header = \"authorization\" } or { cookie = \"token\" }")]
pub(crate) struct TokenFrom {
    pub(crate) header: Option<Text>,
    pub(crate) cookie: Option<Text>,
}

/// `body`
pub(crate) type Body = WordOr<BodyTable>;

/// `body = { … }`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BodyTable {
    pub(crate) member: Option<Text>,
    pub(crate) one_of: Option<OneOrMore>,
}

impl Words for BodyTable {
    const WORDS: &'static [&'static str] = &["any", "graphql"];
    const FORM: &'static str = "\"any\", \"graphql\" or { member = \"action\", one_of = [\"search\"] }";
}
