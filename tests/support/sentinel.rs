//! A primary, its replicas and their sentinels: real processes with timeouts so short that a failover takes seconds.

use super::redis_server::{Role, tls_options};
use super::{DEADLINE, Redis, eventually};

/// What the sentinels call the primary.
const SERVICE: &str = "mymaster";

/// One primary, two replicas, three sentinels. All are killed when dropped.
pub struct RedisWithSentinels {
    /// The servers; the first is the primary at the start.
    pub servers: Vec<Redis>,
    /// The sentinels.
    pub sentinels: Vec<Redis>,
}

impl RedisWithSentinels {
    /// Starts them, with `min-replicas-to-write 1`, and waits until everybody knows everybody.
    pub async fn start() -> RedisWithSentinels {
        RedisWithSentinels::launch(None).await
    }

    /// The same, encrypted throughout; the sentinels want this password.
    pub async fn with_tls(password: &str) -> RedisWithSentinels {
        RedisWithSentinels::launch(Some(password)).await
    }

    async fn launch(password: Option<&str>) -> RedisWithSentinels {
        let more = || if password.is_some() { tls_options() } else { Vec::new() };
        let mut servers = vec![server(&more(), None).await];
        let port = servers[0].tls_port().unwrap_or(servers[0].port()).to_string();
        for _ in 0..2 {
            servers.push(server(&more(), Some(&port)).await);
        }
        eventually("both replicas are in step", DEADLINE, || async {
            let info: String = servers[0].run(&["INFO", "replication"]).await;
            info.contains("min_slaves_good_slaves:2")
        })
        .await;
        let mut config = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000\nsentinel parallel-syncs {SERVICE} 2\n"
        );
        if let Some(password) = password {
            config += &format!("sentinel sentinel-pass {password}\n");
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let options = more();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            sentinels.push(Redis::launch(Role::Sentinel(config.clone()), password, &options).await);
        }
        let set = RedisWithSentinels { servers, sentinels };
        for sentinel in &set.sentinels {
            eventually("a sentinel knows the others and the replicas", DEADLINE, || async {
                let known: std::collections::HashMap<String, String> =
                    sentinel.run(&["SENTINEL", "MASTER", SERVICE]).await;
                known["num-other-sentinels"] == "2" && known["num-slaves"] == "2"
            })
            .await;
        }
        set
    }

    /// `[redis]` for them.
    pub fn section(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(|s| format!("\"{}\"", s.address())).collect();
        format!("sentinels = [{}]\nservice = \"{SERVICE}\"\n", addresses.join(", "))
    }

    /// Which server this sentinel calls the primary.
    pub async fn primary_by(&self, sentinel: usize) -> usize {
        let (_, port): (String, u16) =
            self.sentinels[sentinel].run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await;
        let named = |s: &Redis| s.tls_port().unwrap_or(s.port()) == port;
        self.servers.iter().position(named).expect("one of the servers")
    }

    /// Waits until all sentinels name another primary than `old`, which takes writes; which one that is.
    pub async fn failed_over(&self, old: usize) -> usize {
        let mut new = old;
        for sentinel in 0..self.sentinels.len() {
            // An election that a slow machine spoils is held again after twice the time of a failover.
            eventually("a sentinel names another primary", 3 * DEADLINE, || async {
                self.primary_by(sentinel).await != old
            })
            .await;
            new = self.primary_by(sentinel).await;
        }
        eventually("the new primary takes writes", DEADLINE, || async {
            self.servers[new].try_run(&["SET", "rig:written", "1"]).await.is_ok()
        })
        .await;
        new
    }
}

/// A server that wants a replica before it writes; itself a replica of the primary on that port.
async fn server(more: &[String], primary: Option<&str>) -> Redis {
    let mut options = vec![
        "--min-replicas-to-write",
        "1",
        "--repl-diskless-sync-delay",
        "0",
        "--repl-ping-replica-period",
        "1",
    ];
    options.extend(more.iter().map(String::as_str));
    if let Some(port) = primary {
        options.extend(["--replicaof", "127.0.0.1", port]);
    }
    Redis::with_options(&options).await
}
