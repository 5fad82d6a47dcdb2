//! Real Redis servers, alone or as primary, replicas and sentinels; and a few words of their protocol.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{Outcome, START, during, free_port, until};

/// The name under which sentinels know the primary.
pub const SERVICE: &str = "mymaster";

/// One redis-server. It can be killed and started again on its port.
#[derive(Debug)]
pub struct Redis {
    name: String,
    port: u16,
    dir: PathBuf,
    arguments: Vec<String>,
    process: Mutex<Process>,
}

impl Redis {
    /// Starts one that keeps everything in memory, with these further arguments, and waits until it answers.
    pub async fn start(name: &str, dir: &Path, further: &[String]) -> Outcome<Redis> {
        let port = free_port()?;
        let mut arguments: Vec<String> =
            ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"].map(str::to_owned).to_vec();
        arguments.extend(["--port".to_owned(), port.to_string()]);
        arguments.extend(["--dbfilename".to_owned(), format!("{name}.rdb")]);
        arguments.extend_from_slice(further);
        let process = Process::start(name, Path::new("redis-server"), &arguments, dir)?;
        let redis = Redis {
            name: name.to_owned(),
            port,
            dir: dir.to_owned(),
            arguments,
            process: Mutex::new(process),
        };
        redis.answers().await?;
        Ok(redis)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its process.
    pub fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it again on its port, empty, with these arguments besides its own.
    pub async fn restart(&self, further: &[String]) -> Outcome<()> {
        self.process().kill();
        let arguments = [&self.arguments[..], further].concat();
        let process = Process::start(&self.name, Path::new("redis-server"), &arguments, &self.dir)?;
        *self.process() = process;
        self.answers().await
    }

    async fn answers(&self) -> Outcome<()> {
        let what = format!("{} answers", self.name);
        let waited = until(&what, START, || async {
            command(self.address(), &["PING"]).await.is_ok_and(|reply| reply.text() == "PONG")
        });
        waited.await.map_err(|error| format!("{error}\n{}", self.process().last_words()))
    }

    /// A field of INFO, as a number.
    pub async fn info(&self, field: &str) -> Option<u64> {
        let text = command(self.address(), &["INFO"]).await.ok()?.text();
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
    }
}

/// A primary with replicas, watched by three sentinels.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Redis>,
    sentinels: Vec<(SocketAddr, Process)>,
}

impl Sentinels {
    /// Starts a primary that refuses writes without a replica, `replicas` of those, and three sentinels, and waits
    /// until all know each other.
    pub async fn start(dir: &Path, replicas: usize) -> Outcome<Sentinels> {
        let common = [
            "--min-replicas-to-write",
            "1",
            "--min-replicas-max-lag",
            "2",
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
            "--repl-timeout",
            "5",
        ]
        .map(str::to_owned);
        let primary = Redis::start("redis-1", dir, &common).await?;
        let follow = replica_of(primary.address());
        let mut servers = vec![primary];
        for n in 2..replicas + 2 {
            let arguments = [&common[..], &follow[..]].concat();
            servers.push(Redis::start(&format!("redis-{n}"), dir, &arguments).await?);
        }
        let mut sentinels = Vec::new();
        for n in 1..=3 {
            sentinels.push(start_sentinel(n, dir, servers[0].address())?);
        }
        let all = Sentinels { servers, sentinels };
        until("sentinels know each other and the replicas", START, || all.settled()).await?;
        Ok(all)
    }

    /// Where the sentinels listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(|(address, _)| *address).collect()
    }

    /// The server that the sentinels call the primary.
    pub async fn primary(&self) -> Outcome<&Redis> {
        for (address, _) in &self.sentinels {
            let asked = command(*address, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await;
            if let Ok(Reply::List(parts)) = asked
                && let Some(port) = parts.get(1).and_then(|port| port.text().parse::<u16>().ok())
                && let Some(server) = self.servers.iter().find(|server| server.port == port)
            {
                return Ok(server);
            }
        }
        Err("no sentinel names a primary".to_owned())
    }

    /// True when the primary has all its replicas, in step, and every sentinel knows of them.
    pub async fn settled(&self) -> bool {
        let Ok(primary) = self.primary().await else { return false };
        let replicas = (self.servers.len() - 1) as u64;
        if primary.info("min_slaves_good_slaves").await != Some(replicas) {
            return false;
        }
        for (address, _) in &self.sentinels {
            let Ok(Reply::List(facts)) = command(*address, &["SENTINEL", "MASTER", SERVICE]).await else {
                return false;
            };
            let fact = |name: &str| {
                let at = facts.iter().position(|fact| fact.text() == name)?;
                facts.get(at + 1).map(Reply::text)
            };
            let known = fact("num-slaves") == Some(replicas.to_string());
            let met = fact("num-other-sentinels").as_deref() == Some("2");
            if !known || !met || fact("port") != Some(primary.port.to_string()) {
                return false;
            }
        }
        true
    }

    /// A failover by order; returns when another server is the primary.
    pub async fn switch(&self) -> Outcome<()> {
        let old = self.primary().await?.port;
        until("a sentinel begins a failover", START, || async {
            let (address, _) = &self.sentinels[0];
            matches!(command(*address, &["SENTINEL", "FAILOVER", SERVICE]).await, Ok(Reply::Text(_)))
        })
        .await?;
        self.another_than(old).await
    }

    /// A failover because the primary dies; returns when another is the primary and the dead one its replica.
    pub async fn depose(&self) -> Outcome<()> {
        let old = self.primary().await?;
        old.process().kill();
        self.another_than(old.port).await?;
        let follow = replica_of(self.primary().await?.address());
        old.restart(&follow).await
    }

    async fn another_than(&self, old: u16) -> Outcome<()> {
        until("another primary", START, || async { self.primary().await.is_ok_and(|now| now.port != old) })
            .await
    }
}

fn replica_of(primary: SocketAddr) -> [String; 3] {
    ["--replicaof".to_owned(), primary.ip().to_string(), primary.port().to_string()]
}

fn start_sentinel(n: usize, dir: &Path, primary: SocketAddr) -> Outcome<(SocketAddr, Process)> {
    let port = free_port()?;
    let name = format!("sentinel-{n}");
    let file = dir.join(format!("{name}.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} {} {} 2\n\
         sentinel down-after-milliseconds {SERVICE} 700\nsentinel failover-timeout {SERVICE} 3000\n\
         sentinel parallel-syncs {SERVICE} 2\n",
        dir.display(),
        primary.ip(),
        primary.port()
    );
    std::fs::write(&file, text).map_err(during("a sentinel's configuration"))?;
    let arguments = [file.display().to_string(), "--sentinel".to_owned()];
    let process = Process::start(&name, Path::new("redis-server"), &arguments, dir)?;
    Ok((SocketAddr::from(([127, 0, 0, 1], port)), process))
}

/// What Redis answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status, a number or a string; empty for nil.
    Text(String),
    /// Several.
    List(Vec<Reply>),
    /// It refused.
    Error(String),
}

impl Reply {
    /// The text; empty for a list.
    pub fn text(&self) -> String {
        match self {
            Reply::Text(text) | Reply::Error(text) => text.clone(),
            Reply::List(_) => String::new(),
        }
    }
}

/// Sends one command over a connection of its own. Two seconds are enough for it.
pub async fn command(address: SocketAddr, words: &[&str]) -> Outcome<Reply> {
    let exchange = async { Wire::open(address).await?.ask(words).await };
    tokio::time::timeout(Duration::from_secs(2), exchange)
        .await
        .map_err(|_| format!("{words:?}: no answer"))?
}

/// A connection to Redis.
#[derive(Debug)]
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Outcome<Wire> {
        let stream = TcpStream::connect(address).await.map_err(during("connecting to Redis"))?;
        stream.set_nodelay(true).map_err(during("connecting to Redis"))?;
        Ok(Wire(BufReader::new(stream)))
    }

    /// One command, one reply.
    pub async fn ask(&mut self, words: &[&str]) -> Outcome<Reply> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.write_all(text.as_bytes()).await.map_err(during("writing to Redis"))?;
        self.reply().await
    }

    async fn reply(&mut self) -> Outcome<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.map_err(during("reading from Redis"))?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or("Redis closed the connection")?;
        match kind {
            "+" | ":" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            "$" => {
                let Ok(length) = rest.parse::<usize>() else { return Ok(Reply::Text(String::new())) };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).await.map_err(during("reading from Redis"))?;
                Ok(Reply::Text(String::from_utf8_lossy(&bytes[..length]).into_owned()))
            }
            "*" => {
                let mut parts = Vec::new();
                for _ in 0..rest.parse::<usize>().unwrap_or(0) {
                    parts.push(Box::pin(self.reply()).await?);
                }
                Ok(Reply::List(parts))
            }
            _ => Err(format!("not a reply: {line:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "takes ten seconds and needs redis-server"]
    async fn sentinels_fail_over_by_order_by_death_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let all = Sentinels::start(dir.path(), 2).await.unwrap();
        let first = all.primary().await.unwrap().port;
        all.switch().await.unwrap();
        until("settled", START * 3, || all.settled()).await.unwrap();
        let second = all.primary().await.unwrap().port;
        assert_ne!(first, second);
        all.depose().await.unwrap();
        until("settled", START * 3, || all.settled()).await.unwrap();
        let third = all.primary().await.unwrap();
        assert_ne!(second, third.port);
        let set = command(third.address(), &["SET", "a", "1"]).await.unwrap();
        assert_eq!(set, Reply::Text("OK".to_owned()));
    }

    #[tokio::test]
    #[ignore = "needs redis-server"]
    async fn a_server_comes_back_empty_on_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start("redis", dir.path(), &[]).await.unwrap();
        command(redis.address(), &["SET", "a", "1"]).await.unwrap();
        let before = command(redis.address(), &["GET", "a"]).await.unwrap();
        redis.restart(&[]).await.unwrap();
        let after = command(redis.address(), &["GET", "a"]).await.unwrap();
        assert_eq!((before.text(), after.text()), ("1".to_owned(), String::new()));
        assert!(redis.info("used_memory").await.is_some_and(|bytes| bytes > 0));
        assert!(matches!(command(redis.address(), &["NONSENSE"]).await, Ok(Reply::Error(_))));
    }
}
