//! What is measured: one table, one row per workload.

use std::fmt::Write as _;

use crate::keys::Keys;
use crate::servers::Name;

/// One row.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// What it shows, for readers of the table.
    pub shows: &'static str,
    /// What is done.
    pub kind: Kind,
    /// Bytes of a body.
    pub size: usize,
    /// What is asked for.
    pub keys: Keys,
    /// Connections of the generator.
    pub connections: usize,
    /// Requests at once on each connection (HTTP/2).
    pub streams: usize,
    /// The protocol between generator and server.
    pub protocol: Protocol,
    /// Which cores generator and server have.
    pub cores: Cores,
    /// Who takes part.
    pub servers: &'static [Name],
    /// How large caches may be, MiB.
    pub cache: usize,
    /// Seconds of a measurement, if more than was asked for: thousands of connections take a while to be there.
    pub seconds: u64,
    /// Rounds, as a multiple of what was asked for.
    pub weight: usize,
    /// Measured with `--quick`, too.
    pub quick: bool,
    /// Servers run one after the other, each with all its rounds: together they would not fit into memory.
    pub alone: bool,
}

/// What is done to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything is in the cache; a request that reaches the origin makes the run invalid.
    Hit,
    /// Every URL is new; a request that does not reach the origin makes the run invalid.
    Miss,
    /// Nothing may be stored; likewise.
    Pass,
    /// Reads, while mutations through the server make entries void.
    Storm,
    /// Many requests at once for one URL that is not in the cache, and an origin that takes 300 ms.
    Cold,
    /// Memory held per small entry.
    Memory,
    /// Memory held with many idle connections.
    Idle,
}

/// The protocol between generator and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/1.1 in TLS.
    H1Tls,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// HTTP/2 in TLS.
    H2Tls,
}

/// Who has which cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// The server has one to itself, the generator (with origin and Redis) another.
    Divided,
    /// Everybody uses the same two.
    Shared,
}

impl Protocol {
    /// HTTP/2.
    pub fn h2(self) -> bool {
        matches!(self, Protocol::H2c | Protocol::H2Tls)
    }

    /// TLS.
    pub fn tls(self) -> bool {
        matches!(self, Protocol::H1Tls | Protocol::H2Tls)
    }
}

impl Workload {
    /// The first segment of its paths.
    pub fn area(&self) -> &'static str {
        match (self.kind, self.keys) {
            (Kind::Pass, _) => "pass",
            (Kind::Cold, _) => "slow",
            (_, Keys::Users(_)) => "u",
            _ => "o",
        }
    }
}

use Name::{Bare, Haproxy, Nginx, NginxRedis, Squid, TrafficServer, Varnish, Weir, WeirBoth, WeirRedis};

const ALL: &[Name] = &[Bare, Weir, Nginx, Haproxy, Varnish, Squid, TrafficServer];
const PROXIES: &[Name] = &[Weir, Nginx, Haproxy, Varnish, Squid, TrafficServer];
const REDIS: &[Name] = &[Bare, WeirRedis, WeirBoth, NginxRedis];
const EVERYBODY: &[Name] =
    &[Weir, WeirRedis, WeirBoth, Nginx, Haproxy, Varnish, Squid, TrafficServer, NginxRedis];
// Varnish has no TLS; Squid no HTTP/2, and Traffic Server none without TLS.
const TLS: &[Name] = &[Bare, Weir, Nginx, Haproxy, Squid, TrafficServer];
const H2C: &[Name] = &[Bare, Weir, Nginx, Haproxy, Varnish];
const H2_TLS: &[Name] = &[Bare, Weir, Nginx, Haproxy, TrafficServer];

const KIB: usize = 1024;

/// What rows have in common: hits on one URL of 1 KiB with 64 connections, divided cores.
const ROW: Workload = Workload {
    name: "",
    shows: "",
    kind: Kind::Hit,
    size: KIB,
    keys: Keys::One,
    connections: 64,
    streams: 1,
    protocol: Protocol::H1,
    cores: Cores::Divided,
    servers: ALL,
    cache: 512,
    seconds: 1,
    weight: 1,
    quick: true,
    alone: false,
};

/// The table. `quick` makes the largest sets of URLs smaller.
pub fn table(quick: bool) -> Vec<Workload> {
    let million = if quick { 100_000 } else { 1_000_000 };
    let mut rows = hits(million);
    rows.extend(redis());
    rows.extend(fetches());
    rows.extend(protocols());
    rows.extend(costs(if quick { 50_000 } else { 200_000 }));
    rows
}

fn hits(million: usize) -> Vec<Workload> {
    vec![
        Workload { name: "hot-1k", shows: "one URL of 1 KiB, 64 connections", weight: 2, ..ROW },
        Workload { name: "hot-16k", shows: "one URL of 16 KiB", size: 16 * KIB, ..ROW },
        Workload { name: "hot-256k", shows: "one URL of 256 KiB", size: 256 * KIB, ..ROW },
        Workload {
            name: "shared-1k",
            shows: "one URL of 1 KiB, generator and server on the same two cores",
            cores: Cores::Shared,
            quick: false,
            ..ROW
        },
        Workload { name: "zipf-10k", shows: "10,000 URLs of 1 KiB", keys: Keys::Zipf(10_000), ..ROW },
        Workload {
            name: "zipf-1m",
            shows: "1,000,000 URLs of 1 KiB (a tenth with --quick); servers one after the other",
            keys: Keys::Zipf(million),
            cache: 4_000,
            alone: true,
            ..ROW
        },
        Workload {
            name: "users-10k",
            shows: "10,000 pairs of user (Authorization) and URL; only Weir keeps users apart",
            keys: Keys::Users(10_000),
            ..ROW
        },
        Workload { name: "connections-8", shows: "8 connections", connections: 8, quick: false, ..ROW },
        Workload { name: "connections-512", shows: "512 connections", connections: 512, quick: false, ..ROW },
        Workload {
            name: "connections-5000",
            shows: "5,000 connections",
            connections: 5_000,
            seconds: 4,
            ..ROW
        },
    ]
}

fn redis() -> Vec<Workload> {
    let row = Workload { cores: Cores::Shared, servers: REDIS, ..ROW };
    vec![
        Workload { name: "redis-1k", shows: "hits that come from Redis, 1 KiB, shared cores", ..row.clone() },
        Workload {
            name: "redis-16k",
            shows: "hits that come from Redis, 16 KiB, shared cores",
            size: 16 * KIB,
            quick: false,
            ..row.clone()
        },
        Workload {
            name: "redis-zipf-10k",
            shows: "10,000 URLs of 1 KiB from Redis, shared cores",
            keys: Keys::Zipf(10_000),
            quick: false,
            ..row
        },
    ]
}

fn fetches() -> Vec<Workload> {
    let miss = Workload { kind: Kind::Miss, keys: Keys::Fresh, servers: PROXIES, ..ROW };
    let pass = Workload { kind: Kind::Pass, servers: PROXIES, ..ROW };
    vec![
        Workload { name: "miss-1k", shows: "every URL is new, 1 KiB", ..miss.clone() },
        Workload {
            name: "miss-16k",
            shows: "every URL is new, 16 KiB",
            size: 16 * KIB,
            quick: false,
            ..miss
        },
        Workload { name: "pass-1k", shows: "passed through, never stored, 1 KiB", ..pass.clone() },
        Workload {
            name: "pass-16k",
            shows: "passed through, never stored, 16 KiB",
            size: 16 * KIB,
            quick: false,
            ..pass
        },
        Workload {
            name: "storm",
            shows: "10,000 URLs, 500 PUT/s through the server that make them void beside the reads",
            kind: Kind::Storm,
            keys: Keys::Zipf(10_000),
            servers: PROXIES,
            ..ROW
        },
    ]
}

fn protocols() -> Vec<Workload> {
    vec![
        Workload { name: "tls-1k", shows: "HTTP/1.1 in TLS", protocol: Protocol::H1Tls, servers: TLS, ..ROW },
        Workload {
            name: "h2c-1k",
            shows: "HTTP/2 by prior knowledge, 8 connections with 8 streams",
            protocol: Protocol::H2c,
            servers: H2C,
            connections: 8,
            streams: 8,
            ..ROW
        },
        Workload {
            name: "h2-1k",
            shows: "HTTP/2 in TLS, 8 connections with 8 streams",
            protocol: Protocol::H2Tls,
            servers: H2_TLS,
            connections: 8,
            streams: 8,
            ..ROW
        },
    ]
}

fn costs(entries: usize) -> Vec<Workload> {
    vec![
        Workload {
            name: "cold",
            shows: "200 requests at once for one URL not in the cache; the origin takes 300 ms",
            kind: Kind::Cold,
            connections: 200,
            servers: EVERYBODY,
            cores: Cores::Shared,
            ..ROW
        },
        Workload {
            name: "memory",
            shows: "memory held per entry of 100 bytes, beyond its head and body",
            kind: Kind::Memory,
            size: 100,
            keys: Keys::Zipf(entries),
            servers: PROXIES,
            cores: Cores::Shared,
            alone: true,
            ..ROW
        },
        Workload {
            name: "idle",
            shows: "memory held with so many idle connections",
            kind: Kind::Idle,
            connections: 9_000,
            cores: Cores::Shared,
            alone: true,
            ..ROW
        },
    ]
}

/// What `--list` says.
pub fn list() -> String {
    let mut text = String::from("workloads:\n");
    for row in table(false) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<18} {}", row.name, row.shows);
        let names: Vec<&str> = row.servers.iter().map(|name| name.word()).collect();
        let _ = writeln!(text, "  {:<18}   {}", "", names.join(" "));
    }
    text.push_str("servers:\n");
    for name in Name::ALL {
        let _ = writeln!(text, "  {:<18} {}", name.word(), name.title());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_and_rows_are_complete() {
        for quick in [false, true] {
            let rows = table(quick);
            let names: HashSet<&str> = rows.iter().map(|row| row.name).collect();
            assert_eq!(names.len(), rows.len());
            for row in &rows {
                assert!(!row.shows.is_empty() && !row.servers.is_empty(), "{}", row.name);
                assert!(row.protocol.h2() || row.streams == 1, "{}", row.name);
                assert!((row.kind == Kind::Miss) == (row.keys == Keys::Fresh), "{}", row.name);
            }
        }
        assert!(list().contains("hot-1k"));
    }
}
