//! A primary, its replicas and their sentinels: real processes with timeouts so short that a failover takes seconds.

use super::redis_server::Role;
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
        let options = [
            "--min-replicas-to-write",
            "1",
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
        ];
        let mut servers = vec![Redis::with_options(&options).await];
        let port = servers[0].port().to_string();
        for _ in 0..2 {
            let replica = [&options[..], &["--replicaof", "127.0.0.1", &port]].concat();
            servers.push(Redis::with_options(&replica).await);
        }
        eventually("both replicas are in step", DEADLINE, || async {
            let info: String = servers[0].run(&["INFO", "replication"]).await;
            info.contains("min_slaves_good_slaves:2")
        })
        .await;
        let config = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000\nsentinel parallel-syncs {SERVICE} 2\n"
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::launch(Role::Sentinel(config.clone()), None, &[]).await);
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
        self.servers.iter().position(|s| s.port() == port).expect("one of the servers")
    }

    /// Waits until all sentinels name another primary than `old`, which takes writes; which one that is.
    pub async fn failed_over(&self, old: usize) -> usize {
        let mut new = old;
        for sentinel in 0..self.sentinels.len() {
            eventually("a sentinel names another primary", DEADLINE, || async {
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
