//! What `proxy.toml` means. `file` is what was typed; this is what it says.
//!
//! ```text
//! text ─► tree ─► env (${VAR}, overrides, *_FILE) ─► file (kinds of values) ─► build (meaning) ─► Config
//!           └──────────────┴───────────────┴── every finding, with its place ──┴──────────────► Vec<Problem>
//! ```
//!
//! Nothing stops at the first error: [`load`] gives back a whole [`Config`] with its warnings, or every finding.
//! It keeps no state and may be called again at any time. Secrets are in no message, no `Debug` and no summary.
//! What is not here: watching the file, and fetching keys from URLs.

mod build;
mod describe;
pub mod env;
pub(crate) mod file;
mod problem;
mod tree;
pub(crate) mod values;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::describe::describe;
pub use self::env::Env;
pub use self::problem::{Excerpt, Problem, Severity};
use crate::policy::Policy;
use crate::policy::subject::{KeySet, KeySets};
use crate::server::ServerLimits;
use crate::server::tls::{Leaf, TlsFiles};
use crate::store::StoreConfig;
use crate::upstream::UpstreamConfig;

/// The file that is read when no other is named.
pub const DEFAULT_FILE: &str = "proxy.toml";

/// A configuration that may be used.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// Warnings and notes, in the order of the file; each quotes the lines it is about.
    pub warnings: Vec<Problem>,
}

/// Reads, checks and compiles a configuration file under an environment. On failure: every error and warning, errors
/// first. `path` is [`DEFAULT_FILE`] where the operator named none.
pub fn load(path: &Path, env: &Env) -> Result<Loaded, Vec<Problem>> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| vec![unreadable(path, &shown, &error)])?;
    let directory = path.parent().unwrap_or(Path::new(""));
    load_text(&shown, &text, directory, env)
}

/// The same for a text. `name` stands for the file in messages; relative file names start at the working directory.
pub fn load_str(name: &str, text: &str, env: &Env) -> Result<Loaded, Vec<Problem>> {
    load_text(name, text, Path::new(""), env)
}

fn load_text(name: &str, text: &str, directory: &Path, env: &Env) -> Result<Loaded, Vec<Problem>> {
    // Editors on some systems put a byte order mark in front; it is no part of the document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut document = tree::Document::parse(name, text);
    let syntax_errors = document.problems.len();
    env::mask(&mut document);
    env::expand(&mut document, env);
    env::apply(&mut document, env);
    let file: file::File = document.read();
    // Behind a syntax error entries are missing: whatever is said about what they mean would be guesswork.
    let config = if syntax_errors == 0 { build::build(&mut document, file, directory) } else { None };
    let mut problems = document.problems;
    problems.sort_by_key(|p| (p.severity, p.line == 0, p.line, p.column));
    problems.dedup();
    match config {
        Some(config) if !problems.iter().any(Problem::is_error) => Ok(Loaded { config, warnings: problems }),
        _ => Err(problems),
    }
}

fn unreadable(path: &Path, shown: &str, error: &std::io::Error) -> Problem {
    let reason = env::io_reason(error);
    let message = format!("the configuration file cannot be read: {reason}");
    let mut problem = Problem::new(Severity::Error, shown, message);
    if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_FILE) {
        problem.help(
            "write a proxy.toml here, name another file with `-c FILE`, or run `weir demo` to see Weir at work \
             without one",
        );
    }
    problem
}

/// Everything, validated.
pub struct Config {
    /// Traffic listener.
    pub listen: SocketAddr,
    /// Traffic listener's limits.
    pub limits: ServerLimits,
    /// Traffic over TLS; `None` = plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Backend.
    pub upstream: UpstreamConfig,
    /// Admin listener; `None` = switched off.
    pub admin: Option<AdminConfig>,
    /// Tiers.
    pub store: StoreConfig,
    /// Routes and rules.
    pub policy: Policy,
    /// Where verification keys come from, in the order `JwtSpec::keys` counts.
    pub key_sets: Vec<KeySetSource>,
    /// Exchange settings.
    pub exchange: ExchangeConfig,
    /// Logs.
    pub log: LogConfig,
    /// How long requests in flight may take after SIGTERM, default 30 s.
    pub drain_timeout: Duration,
    /// How long readiness is down before listeners close, default 0.
    pub drain_delay: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&describe(self))
    }
}

/// TLS on the traffic listener.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Certificate and key, which belong together.
    pub files: TlsFiles,
    /// What the certificate says, as far as it could be read.
    pub leaf: Option<Leaf>,
}

/// The admin listener.
#[derive(Clone)]
pub struct AdminConfig {
    /// Address, loopback by default.
    pub listen: SocketAddr,
    /// Token for anything that changes; `None` = those calls are refused.
    pub token: Option<String>,
}

impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = if self.token.is_some() { "set" } else { "not set" };
        write!(f, "AdminConfig {{ listen: {}, token: {token} }}", self.listen)
    }
}

/// Where verification keys come from.
#[derive(Clone)]
pub enum KeySetSource {
    /// A shared secret (HS*), given whole.
    Secret {
        /// Name of the set.
        name: String,
        /// The secret.
        secret: Vec<u8>,
    },
    /// A PEM text (public key or certificate).
    Pem {
        /// Name of the set.
        name: String,
        /// The text.
        pem: Vec<u8>,
    },
    /// A JWKS file, read again every `refresh`.
    JwksFile {
        /// Name of the set.
        name: String,
        /// Where.
        path: std::path::PathBuf,
        /// How often.
        refresh: Duration,
    },
    /// A JWKS URL, fetched again every `refresh`, and (rate-limited) when an unknown `kid` shows up.
    JwksUrl {
        /// Name of the set.
        name: String,
        /// Where.
        url: http::Uri,
        /// How often.
        refresh: Duration,
    },
}

/// What the exchange needs to know beyond the policy.
#[derive(Debug, Clone)]
pub struct ExchangeConfig {
    /// Name in `Cache-Status` and `Via`, default `weir`.
    pub name: String,
    /// Show the key's digest in `Cache-Status`.
    pub show_key: bool,
    /// Send `X-Cache: HIT|MISS` too.
    pub x_cache: bool,
    /// Whether incoming `X-Forwarded-*` is believed: from nobody (default), from these networks, from all.
    pub trust_forwarded: Trust,
    /// Most bytes buffered by all fills together; beyond it answers are not stored.
    pub max_fill_bytes: u64,
    /// Largest JSON body looked into for tags, bytes (request or response).
    pub max_tag_body: u64,
    /// Largest request body that may be keyed.
    pub max_key_body: u64,
    /// How long a key found not shareable is remembered.
    pub hit_for_miss: Duration,
    /// Longest a request waits for another's fetch before it goes itself.
    pub coalesce_timeout: Duration,
    /// Answer `/livez` and `/readyz` on the traffic port too.
    pub probes_on_traffic: bool,
}

/// Which peers' `X-Forwarded-*` is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's: replaced by what Weir itself saw.
    Nobody,
    /// These networks' (address, prefix length).
    Networks(Vec<(std::net::IpAddr, u8)>),
    /// Everybody's.
    All,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `tracing` filter, e.g. `info,weir::store=debug`.
    pub level: String,
    /// JSON or human.
    pub json: bool,
    /// Access log: `None` = off; `Some("-")` = stdout; else a file.
    pub access: Option<String>,
}

impl std::fmt::Debug for KeySetSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            KeySetSource::Secret { .. } => "secret",
            KeySetSource::Pem { .. } => "pem",
            KeySetSource::JwksFile { .. } => "jwks file",
            KeySetSource::JwksUrl { .. } => "jwks url",
        };
        write!(f, "KeySetSource({kind} {})", self.name())
    }
}

impl KeySetSource {
    /// Name of the set.
    pub fn name(&self) -> &str {
        match self {
            KeySetSource::Secret { name, .. }
            | KeySetSource::Pem { name, .. }
            | KeySetSource::JwksFile { name, .. }
            | KeySetSource::JwksUrl { name, .. } => name,
        }
    }
}

/// The key sets as far as they can be had without waiting (files, secrets); URLs start empty, and so verify nothing.
/// The error says which file cannot be read or holds no keys.
pub fn initial_key_sets(sources: &[KeySetSource]) -> Result<KeySets, String> {
    let mut sets = Vec::with_capacity(sources.len());
    for source in sources {
        let set = match source {
            KeySetSource::Secret { name, secret } => KeySet::from_secret(name, secret),
            KeySetSource::Pem { name, pem } => KeySet::from_pem(name, pem)?,
            KeySetSource::JwksFile { name, path, .. } => {
                let json = std::fs::read(path)
                    .map_err(|e| format!("key set `{name}`: {}: {}", path.display(), env::io_reason(&e)))?;
                KeySet::from_jwks(name, &json).map_err(|e| format!("{}: {e}", path.display()))?.0
            }
            KeySetSource::JwksUrl { name, .. } => KeySet { name: name.as_str().into(), keys: Vec::new() },
        };
        sets.push(Arc::new(set));
    }
    Ok(KeySets(sets))
}
