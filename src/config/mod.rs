//! What `proxy.toml` means. `file` is what was typed; this is what it says.

pub mod env;
pub mod file;

use std::net::SocketAddr;
use std::time::Duration;

use crate::policy::Policy;
use crate::policy::subject::KeySets;
use crate::server::ServerLimits;
use crate::store::StoreConfig;
use crate::upstream::UpstreamConfig;

/// Everything, validated.
#[derive(Debug)]
pub struct Config {
    /// Traffic listener.
    pub listen: SocketAddr,
    /// Traffic listener's limits.
    pub limits: ServerLimits,
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
        let (kind, name) = match self {
            KeySetSource::Secret { name, .. } => ("secret", name),
            KeySetSource::Pem { name, .. } => ("pem", name),
            KeySetSource::JwksFile { name, .. } => ("jwks file", name),
            KeySetSource::JwksUrl { name, .. } => ("jwks url", name),
        };
        write!(f, "KeySetSource({kind} {name})")
    }
}

/// The key sets as far as they can be had without waiting (files, secrets); URLs start empty.
pub fn initial_key_sets(_sources: &[KeySetSource]) -> Result<KeySets, String> {
    unimplemented!()
}
