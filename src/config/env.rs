//! The environment: an override for every setting, `${VAR}` inside strings, `*_FILE` for secrets.
//!
//! One table, `SETTINGS`, says which settings exist, how a variable's text becomes a value, and which are
//! secret; a test holds it against the structs of `file`. The variable of `cache.memory` is
//! `WEIR_CACHE_MEMORY`; of route `daily-report`'s `ttl` it is `WEIR_ROUTE_DAILY_REPORT_TTL`; of the second
//! `[[purge]]`'s `settle` it is `WEIR_PURGE_1_SETTLE` (counted from 0, as in messages). An empty variable counts
//! as not set. A variable's text is taken as it is: `${VAR}` in it is not looked at.
//!
//! The environment is an argument ([`Env`]); only [`Env::system`] reads the process's own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Severity, Sources, nearest};
use super::tree::{self, Document, Seg};

/// Environment variables, by name. Its `Debug` shows names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// The process's environment; variables that are not UTF-8 are left out.
    pub fn system() -> Env {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// No variables at all.
    pub fn empty() -> Env {
        Env::default()
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Env {
        Env(vars.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is: strings, durations, sizes.
    Text,
    /// A string that is never shown, and may come from a file named by `…_FILE`.
    Secret,
    /// `true`, `5`, `0.1`.
    Scalar,
    /// `a,b` or `["a", "b"]`.
    List,
    /// TOML where it looks like it (`true`, `{ … }`, `[ … ]`), else a string.
    Any,
}

use Kind::{Any, List, Scalar, Secret, Text};

/// Every setting. `*` stands for a name (routes, keys) or a position (purge rules).
pub(crate) const SETTINGS: &[(&str, Kind)] = &[
    ("listen", Text),
    ("upstream.url", Text),
    ("upstream.preserve_host", Scalar),
    ("upstream.connect_timeout", Text),
    ("upstream.first_byte_timeout", Text),
    ("upstream.idle_timeout", Text),
    ("upstream.keep_alive", Text),
    ("upstream.max_connections", Scalar),
    ("upstream.ca_file", Text),
    ("tls.certificate", Text),
    ("tls.key", Text),
    ("server.header_timeout", Text),
    ("server.idle_timeout", Text),
    ("server.max_header_bytes", Text),
    ("server.max_connections", Scalar),
    ("server.max_streams", Scalar),
    ("server.drain_timeout", Text),
    ("server.drain_delay", Text),
    ("server.trust_forwarded", Any),
    ("server.probes", Scalar),
    ("admin.listen", Text),
    ("admin.token", Secret),
    ("admin.enabled", Scalar),
    ("redis.url", Secret),
    ("redis.host", Text),
    ("redis.port", Scalar),
    ("redis.username", Text),
    ("redis.password", Secret),
    ("redis.database", Scalar),
    ("redis.tls", Scalar),
    ("redis.ca_file", Text),
    ("redis.cert_file", Text),
    ("redis.key_file", Text),
    ("redis.sentinels", List),
    ("redis.service", Text),
    ("redis.sentinel_username", Text),
    ("redis.sentinel_password", Secret),
    ("redis.cluster", List),
    ("redis.prefix", Text),
    ("redis.pool", Scalar),
    ("redis.timeout", Text),
    ("redis.connect_timeout", Text),
    ("redis.append_timeout", Text),
    ("redis.max_pending_writes", Scalar),
    ("redis.max_pending_bytes", Text),
    ("cache.namespace", Text),
    ("cache.memory", Text),
    ("cache.max_body", Text),
    ("cache.max_fill", Text),
    ("cache.max_variants", Scalar),
    ("cache.max_tags", Scalar),
    ("cache.mark_slots", Scalar),
    ("cache.secret", Secret),
    ("cache.name", Text),
    ("cache.show_key", Scalar),
    ("cache.x_cache", Scalar),
    ("cache.hit_for_miss", Text),
    ("cache.coalesce_timeout", Text),
    ("cache.max_tag_body", Text),
    ("cache.max_key_body", Text),
    ("cache.coherence", Text),
    ("cache.lease", Text),
    ("cache.alone", Text),
    ("cache.on_unreachable_log", Text),
    ("log.level", Text),
    ("log.format", Text),
    ("log.access", Any),
    ("defaults.cache", Text),
    ("defaults.credentials", Text),
    ("defaults.ttl", Text),
    ("defaults.negative_ttl", Text),
    ("defaults.stale_while_revalidate", Text),
    ("defaults.stale_if_error", Text),
    ("defaults.keep", Text),
    ("defaults.jitter", Scalar),
    ("defaults.origin", Text),
    ("defaults.client_refresh", Scalar),
    ("defaults.store_set_cookie", Scalar),
    ("defaults.store_errors", Scalar),
    ("defaults.subject", Any),
    ("defaults.query.ignore", List),
    ("defaults.query.only", List),
    ("defaults.query.sets", List),
    ("defaults.ignore", List),
    ("defaults.vary", List),
    ("defaults.target_list", List),
    ("defaults.compress", Any),
    ("defaults.max_body", Text),
    ("defaults.coalesce", Scalar),
    ("defaults.no_vary_search", Scalar),
    ("defaults.fetch_whole", Scalar),
    ("keys.*.secret", Secret),
    ("keys.*.pem", Text),
    ("keys.*.pem_file", Text),
    ("keys.*.jwks_file", Text),
    ("keys.*.jwks_url", Text),
    ("keys.*.refresh", Text),
    ("route.*.match", Text),
    ("route.*.host", Text),
    ("route.*.when", Any),
    ("route.*.cache", Scalar),
    ("route.*.ttl", Text),
    ("route.*.negative_ttl", Text),
    ("route.*.stale_while_revalidate", Text),
    ("route.*.stale_if_error", Text),
    ("route.*.keep", Text),
    ("route.*.jitter", Scalar),
    ("route.*.origin", Text),
    ("route.*.client_refresh", Scalar),
    ("route.*.store_set_cookie", Scalar),
    ("route.*.store_errors", Scalar),
    ("route.*.subject", Any),
    ("route.*.public", Scalar),
    ("route.*.query.ignore", List),
    ("route.*.query.only", List),
    ("route.*.query.sets", List),
    ("route.*.ignore", List),
    ("route.*.vary", List),
    ("route.*.target_list", List),
    ("route.*.body", Any),
    ("route.*.tags", List),
    ("route.*.compress", Any),
    ("route.*.max_body", Text),
    ("route.*.coalesce", Scalar),
    ("route.*.no_vary_search", Scalar),
    ("route.*.fetch_whole", Scalar),
    ("purge.*.on", Text),
    ("purge.*.host", Text),
    ("purge.*.when", Any),
    ("purge.*.tags", List),
    ("purge.*.paths", List),
    ("purge.*.routes", List),
    ("purge.*.subject", Text),
    ("purge.*.settle", Text),
    ("purge.*.soft", Scalar),
];

/// Variables that mean something to other parts of Weir.
const OTHERS: [&str; 1] = ["WEIR_CONFIG"];

/// A variable that says where Redis is replaces what the file says about that: its variable, and which keys of
/// `[redis]` go.
const REDIS_ADDRESS: [(&str, &[&str]); 3] = [
    (
        "WEIR_REDIS_URL",
        &[
            "host",
            "port",
            "username",
            "password",
            "database",
            "tls",
            "sentinels",
            "service",
            "sentinel_username",
            "sentinel_password",
            "cluster",
        ],
    ),
    ("WEIR_REDIS_SENTINELS", &["url", "host", "port", "cluster"]),
    (
        "WEIR_REDIS_CLUSTER",
        &[
            "url",
            "host",
            "port",
            "database",
            "sentinels",
            "service",
            "sentinel_username",
            "sentinel_password",
        ],
    ),
];

/// The variable of a setting.
pub(crate) fn variable(path: &str) -> String {
    if path == "upstream.url" {
        return "WEIR_UPSTREAM".to_owned();
    }
    let upper = path.to_ascii_uppercase().replace(['.', '-'], "_");
    format!("WEIR_{upper}")
}

/// A setting that exists in this document, with its variable.
struct Candidate {
    name: String,
    path: Vec<Seg>,
    kind: Kind,
}

/// Every setting this document can have.
fn candidates(root: &DeTable<'_>) -> Vec<Candidate> {
    let mut all = Vec::new();
    for (setting, kind) in SETTINGS {
        let keys = |text: &str| text.split('.').map(|k| Seg::Key(k.to_owned())).collect::<Vec<_>>();
        let Some((list, rest)) = setting.split_once(".*.") else {
            all.push(Candidate { name: variable(setting), path: keys(setting), kind: *kind });
            continue;
        };
        let elements = root.get(list).and_then(|v| v.get_ref().as_array());
        for (at, element) in elements.into_iter().flatten().enumerate() {
            let name = match list {
                "purge" => Some(at.to_string()),
                _ => element.get_ref().get("name").and_then(|n| n.get_ref().as_str()).map(str::to_owned),
            };
            let Some(name) = name else { continue };
            let mut path = vec![Seg::Key(list.to_owned()), Seg::Index(at)];
            path.extend(keys(rest));
            all.push(Candidate { name: variable(&format!("{list}.{name}.{rest}")), path, kind: *kind });
        }
    }
    all
}

/// Puts the environment's overrides over the file.
pub(crate) fn apply<'i>(document: &mut Document<'i>, env: &'i Env) {
    let candidates = candidates(&document.root);
    let mut by_name: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in &candidates {
        by_name.entry(&candidate.name).or_default().push(candidate);
    }
    report_unknown(document, env, &by_name);
    for (variable, replaced) in REDIS_ADDRESS {
        // Of these, only the URL is a secret and may come from a file.
        let from_file = variable == "WEIR_REDIS_URL" && env.get("WEIR_REDIS_URL_FILE").is_some();
        if env.get(variable).is_none() && !from_file {
            continue;
        }
        for key in replaced {
            tree::remove(&mut document.root, &[Seg::Key("redis".to_owned()), Seg::Key((*key).to_owned())]);
        }
    }
    for (name, meant) in by_name {
        let (text, file) = match meant.first().map(|c| c.kind) {
            Some(Secret) => match secret_text(document, env, name) {
                Some(found) => found,
                None => continue,
            },
            _ => match env.get(name) {
                Some(text) if !is_service_link(name, text) => (Cow::Borrowed(text), false),
                _ => continue,
            },
        };
        let [candidate] = meant.as_slice() else {
            let paths: Vec<String> = meant.iter().map(|c| tree::show_path(&c.path)).collect();
            document
                .add(Problem::new(
                    Severity::Error,
                    format!("environment variable {name}"),
                    format!("the variable could mean {}", paths.join(" or ")),
                ))
                .help("rename one of the two in the file");
            continue;
        };
        let label = if file { format!("{name}_FILE") } else { name.to_owned() };
        override_one(document, candidate, &label, text);
    }
    document.index();
}

/// The text of a secret and whether it came from a file.
fn secret_text<'i>(document: &mut Document<'_>, env: &'i Env, name: &str) -> Option<(Cow<'i, str>, bool)> {
    let file_variable = format!("{name}_FILE");
    let label = |n: &str| format!("environment variable {n}");
    match (env.get(name), env.get(&file_variable)) {
        (None, None) => None,
        (Some(text), None) => Some((Cow::Borrowed(text), false)),
        (Some(_), Some(_)) => {
            let message = format!("both {name} and {file_variable} are set");
            document.add(Problem::new(Severity::Error, label(name), message)).help("unset one of the two");
            None
        }
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => {
                let message = format!("the file `{path}` is empty");
                document.add(Problem::new(Severity::Error, label(&file_variable), message));
                None
            }
            Ok(text) => Some((text.trim_end_matches(['\n', '\r']).to_owned().into(), true)),
            Err(error) => {
                let message = format!("the file `{path}` cannot be read: {}", io_reason(&error));
                document
                    .add(Problem::new(Severity::Error, label(&file_variable), message))
                    .allowed("a readable UTF-8 text file holding the secret alone");
                None
            }
        },
    }
}

/// An I/O error in the words of a person, without the operating system's number.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn override_one<'i>(document: &mut Document<'i>, candidate: &Candidate, label: &str, text: Cow<'i, str>) {
    let hidden = candidate.kind == Secret || tells_secrets(&candidate.path, &text);
    let offset = document.sources.add_variable(label, &text, hidden);
    match value_of(candidate.kind, text.clone()) {
        Ok(value) => {
            let value = tree::shift(value, offset);
            if let Some(Seg::Key(first)) = candidate.path.first()
                && first == "upstream"
                && document.root.get("upstream").is_some_and(|u| !u.get_ref().is_table())
            {
                document.root.remove("upstream");
            }
            tree::put(&mut document.root, &candidate.path, value);
        }
        Err(allowed) => {
            let span = offset..offset + text.len();
            let path = tree::show_path(&candidate.path);
            document.report(Severity::Error, &span, format!("read `{text}`")).about(path).allowed(allowed);
            tree::remove(&mut document.root, &candidate.path);
        }
    }
}

/// A variable's text as a value whose places are offsets in that text, or what is allowed.
fn value_of<'i>(kind: Kind, text: Cow<'i, str>) -> Result<Spanned<DeValue<'i>>, &'static str> {
    let whole = 0..text.len();
    let Cow::Borrowed(typed) = text else { return Ok(Spanned::new(whole, DeValue::String(text))) };
    let string = Spanned::new(whole.clone(), DeValue::String(text));
    let trimmed = typed.trim();
    match kind {
        Text | Secret => Ok(string),
        // A word that is no scalar stays a string: the setting itself then says what it wants.
        Scalar => {
            Ok(parse(typed).filter(|v| !v.get_ref().is_table() && !v.get_ref().is_array()).unwrap_or(string))
        }
        Any if trimmed.starts_with(['{', '[']) || trimmed == "true" || trimmed == "false" => {
            parse(typed).ok_or("a value as it would be typed in the file")
        }
        Any => Ok(string),
        List if trimmed.starts_with('[') => parse(typed).ok_or("a list such as a,b or [\"a\", \"b\"]"),
        List => Ok(Spanned::new(whole, DeValue::Array(split_list(typed).collect()))),
    }
}

/// `a, b` as two strings with their places.
fn split_list(text: &str) -> impl Iterator<Item = Spanned<DeValue<'_>>> {
    let mut next = 0;
    text.split(',').filter_map(move |part| {
        let start = next + (part.len() - part.trim_start().len());
        next += part.len() + 1;
        let part = part.trim();
        let value = DeValue::String(part.into());
        (!part.is_empty()).then(|| Spanned::new(start..start + part.len(), value))
    })
}

/// Parses a TOML value.
fn parse(text: &str) -> Option<Spanned<DeValue<'_>>> {
    let lead = text.len() - text.trim_start().len();
    DeValue::parse(text.trim()).ok().map(|value| tree::shift(value, lead))
}

/// Warns about `WEIR_…` variables that mean nothing: a slip there would silently leave a default in force.
fn report_unknown(document: &mut Document<'_>, env: &Env, known: &BTreeMap<&str, Vec<&Candidate>>) {
    let files: BTreeSet<String> = known
        .iter()
        .filter(|(_, meant)| meant.iter().any(|c| c.kind == Secret))
        .map(|(name, _)| format!("{name}_FILE"))
        .collect();
    let mut names: BTreeSet<&str> = known.keys().copied().chain(OTHERS).collect();
    names.extend(files.iter().map(String::as_str));
    for (name, text) in env.0.iter().filter(|(name, _)| name.starts_with("WEIR_")) {
        if names.contains(name.as_str()) || is_service_link(name, text) {
            continue;
        }
        let message = format!("the variable `{name}` is not known and changes nothing");
        let mut problem = Problem::new(Severity::Warning, format!("environment variable {name}"), message);
        if let Some(near) = nearest(name, names.iter().copied()) {
            problem.help(format!("did you mean `{near}`?"));
        }
        document.add(problem);
    }
}

/// Kubernetes gives every container variables about every service: a service called `weir` or `weir-redis`
/// must not look like an override (`WEIR_REDIS_PORT=tcp://10.0.0.1:6379`).
fn is_service_link(name: &str, text: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && (text.starts_with("tcp://") || text.starts_with("udp://")))
        || (name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
}

/// Replaces `${VAR}` and `${VAR:-default}` in every string of the file; `$$` becomes `$`.
pub(crate) fn expand(document: &mut Document<'_>, env: &Env) {
    let mut failed = Vec::new();
    let file = document.sources.file().to_owned();
    for (_, value) in document.root.iter_mut() {
        expand_value(value, env, &mut failed);
    }
    for (span, whole, error) in failed {
        let at = document.sources.within(&span, &whole);
        document.report(Severity::Error, &at, error).help(format!(
            "set it, give a default (${{VAR:-default}}), or write `$$` in {file} where a dollar is meant"
        ));
        document.remove_at(&span);
    }
}

/// What could not be replaced: the string's place, the text to point at, and why.
type Failed = (Range<usize>, String, String);

fn expand_value(value: &mut Spanned<DeValue<'_>>, env: &Env, failed: &mut Vec<Failed>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains('$') => match expand_text(text, env) {
            Ok(expanded) => *text = expanded.into(),
            Err((whole, error)) => failed.push((span, whole, error)),
        },
        DeValue::Array(array) => array.iter_mut().for_each(|v| expand_value(v, env, failed)),
        DeValue::Table(table) => {
            for (_, v) in table.iter_mut() {
                expand_value(v, env, failed);
            }
        }
        _ => {}
    }
}

/// Replaces in one string; the error is the text to point at, and why.
fn expand_text(text: &str, env: &Env) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some(inside) = after.strip_prefix('{') {
            let Some(end) = inside.find('}') else {
                return Err(("${".to_owned(), "`${` is never closed by `}`".to_owned()));
            };
            out.push_str(reference(&inside[..end], env)?);
            rest = &inside[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of `VAR` or `VAR:-default`. As in a shell, the default also stands in for an empty variable.
fn reference<'v>(inside: &'v str, env: &'v Env) -> Result<&'v str, (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !named {
        let message = format!("`${{{name}}}` does not name a variable");
        return Err((format!("${{{name}"), message));
    }
    match (env.0.get(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default),
        (None, None) => {
            Err((format!("${{{name}}}"), format!("the environment variable `{name}` is not set")))
        }
    }
}

/// Hides the secrets typed into the file from every message that quotes it.
pub(crate) fn mask(document: &mut Document<'_>) {
    let mut ranges = Vec::new();
    tree::walk(&document.root, &mut Vec::new(), &mut |path, _, value| {
        let typed = document.sources.raw(&value.span());
        if (is_secret(path) || tells_secrets(path, typed)) && !is_bare_reference(typed) {
            ranges.push(value.span());
        }
    });
    for range in ranges {
        document.sources.mask(range);
    }
}

/// A URL with a password in it, or a private key where a public one belongs.
fn tells_secrets(path: &[Seg], text: &str) -> bool {
    let is_url = text.contains("://") || matches!(path.last(), Some(Seg::Key(key)) if key.ends_with("url"));
    (is_url && text.contains('@')) || text.contains("PRIVATE KEY")
}

fn is_secret(path: &[Seg]) -> bool {
    let keys: Vec<&str> = path
        .iter()
        .map(|seg| match seg {
            Seg::Key(key) => key.as_str(),
            Seg::Index(_) => "*",
        })
        .collect();
    let path = keys.join(".");
    SETTINGS.iter().any(|(setting, kind)| *kind == Secret && *setting == path)
}

/// `"${VAR}"` and nothing else: worth showing, and no secret.
fn is_bare_reference(typed: &str) -> bool {
    let inside = typed.trim_matches(['"', '\'']);
    inside
        .strip_prefix("${")
        .and_then(|t| t.strip_suffix('}'))
        .is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// The same for a file that does not parse, where nothing says what is a value: hides whatever follows the name
/// of a secret, up to the next line that begins a key or a table.
pub(crate) fn mask_lines(text: &str, sources: &mut Sources) {
    let secret_keys: BTreeSet<&str> = SETTINGS
        .iter()
        .filter(|(_, kind)| *kind == Secret)
        .filter_map(|(setting, _)| setting.rsplit('.').next())
        .collect();
    let (mut start, mut hiding) = (0, false);
    for line in text.split_inclusive('\n') {
        let lead = line.trim_start();
        let opens = lead.starts_with('[')
            || lead.split_once('=').is_some_and(|(key, _)| {
                key.trim().chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"' ".contains(c))
            });
        let words = line.match_indices('=').filter_map(|(at, _)| {
            let key = line[..at].trim_end().trim_end_matches(['"', '\'']);
            let word = key.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
            secret_keys.contains(word).then_some(at + 1)
        });
        let first = words.min();
        hiding = first.is_some() || (hiding && !opens);
        if hiding {
            sources.mask(start + first.unwrap_or(0)..start + line.trim_end().len());
        }
        start += line.len();
    }
}
