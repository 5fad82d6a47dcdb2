//! A Redis Cluster: real nodes on loopback, joined and given their slots by hand.

use super::redis_server::{Role, tls_options};
use super::{DEADLINE, Redis, eventually, free_port};

/// Three primaries with a third of the slots each, and perhaps a replica of the first. Killed when dropped.
pub struct RedisCluster {
    /// The primaries.
    pub primaries: Vec<Redis>,
    /// The first primary's replica.
    pub replica: Option<Redis>,
}

/// Slots, by primary.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl RedisCluster {
    /// Three primaries, no replica.
    pub async fn start() -> RedisCluster {
        RedisCluster::launch(false).await
    }

    /// The same with an encrypted port on every node, which they use among themselves as well.
    pub async fn with_tls() -> RedisCluster {
        RedisCluster::launch(true).await
    }

    async fn launch(tls: bool) -> RedisCluster {
        let mut primaries = Vec::new();
        for (from, to) in SLOTS {
            let node = node(tls).await;
            node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            let epoch = (primaries.len() + 1).to_string();
            node.run::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            primaries.push(node);
        }
        let cluster = RedisCluster { primaries, replica: None };
        for node in &cluster.primaries[1..] {
            cluster.meet(node).await;
        }
        cluster.is_whole().await;
        cluster
    }

    async fn meet(&self, node: &Redis) {
        let first = &self.primaries[0];
        let bus: (String, String) = first.run(&["CONFIG", "GET", "cluster-port"]).await;
        let port = first.tls_port().unwrap_or(first.port()).to_string();
        node.run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus.1]).await;
    }

    async fn is_whole(&self) {
        for node in &self.primaries {
            eventually("the cluster is whole", DEADLINE, || async {
                let info: String = node.run(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
    }

    /// Gives the primary `of` a replica and waits until it is in step and known everywhere.
    pub async fn add_replica(&mut self, of: usize) {
        let replica = node(self.primaries[of].tls_port().is_some()).await;
        self.meet(&replica).await;
        let id: String = self.primaries[of].run(&["CLUSTER", "MYID"]).await;
        eventually("the replica is known", DEADLINE, || async {
            replica.try_run(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
        })
        .await;
        for node in &self.primaries {
            eventually("the replica is known as one", DEADLINE, || async {
                let nodes: String = node.run(&["CLUSTER", "NODES"]).await;
                nodes
                    .lines()
                    .any(|line| line.contains("slave") && line.contains(&id) && line.ends_with("connected"))
            })
            .await;
        }
        eventually("the replica is in step", DEADLINE, || async {
            let info: String = replica.run(&["INFO", "replication"]).await;
            info.contains("master_link_status:up")
        })
        .await;
        self.replica = Some(replica);
    }

    /// `[redis]` for it; only some of the nodes are named.
    pub fn section(&self) -> String {
        let named: Vec<String> = self.primaries[..2].iter().map(|n| format!("\"{}\"", n.address())).collect();
        format!("cluster = [{}]\n", named.join(", "))
    }

    /// Which primary owns the slot of `key`, as things were at the start.
    pub async fn owner(&self, key: &str) -> usize {
        let slot: u16 = self.primaries[0].run(&["CLUSTER", "KEYSLOT", key]).await;
        SLOTS.iter().position(|(from, to)| (*from..=*to).contains(&slot)).expect("a slot of somebody's")
    }

    /// Moves the slot of `key`, and what is in it, between two primaries.
    pub async fn move_slot(&self, key: &str, from: usize, to: usize) {
        let (from, to) = (&self.primaries[from], &self.primaries[to]);
        let slot: u16 = from.run(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = slot.to_string();
        let source: String = from.run(&["CLUSTER", "MYID"]).await;
        let target: String = to.run(&["CLUSTER", "MYID"]).await;
        to.run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        from.run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        let port = to.tls_port().unwrap_or(to.port()).to_string();
        loop {
            let keys: Vec<String> = from.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]).await;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                from.run::<String>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "1000", "REPLACE"]).await;
            }
        }
        for node in [to, from].into_iter().chain(&self.primaries) {
            node.run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    }

    /// How many keys match `pattern` on each primary.
    pub async fn spread(&self, pattern: &str) -> Vec<usize> {
        let mut counts = Vec::new();
        for node in &self.primaries {
            counts.push(node.keys(pattern).await.len());
        }
        counts
    }
}

async fn node(tls: bool) -> Redis {
    let bus = free_port().to_string();
    let mut options =
        vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
    options.extend(["--repl-diskless-sync-delay", "0"]);
    let tls = if tls {
        [tls_options(), vec!["--tls-cluster".to_owned(), "yes".to_owned()]].concat()
    } else {
        Vec::new()
    };
    options.extend(tls.iter().map(String::as_str));
    Redis::launch(Role::Node, None, &options).await
}
