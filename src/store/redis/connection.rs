//! A connection as operations see it: to one server, or to all primaries of a cluster.
//!
//! In a cluster a pipeline that touches several slots is an error. So there each command goes to where its key is,
//! by itself, all at once; only commands on the same key wait for one another, so that a removal and a write of
//! one name stay in order. Commands without a key (`PING`) go to any node, those of a walk to the node it is at.

use std::collections::HashMap;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Arg, Cmd, Pipeline, RedisResult, Value};

use super::connect::node::Node;
use super::failure::healthy;

/// Shared by its clones.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Plain(MultiplexedConnection),
    /// To a cluster. It repairs itself when one of its nodes is lost.
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_plain() { "Plain" } else { "Cluster" })
    }
}

impl Connection {
    /// To one server, so that one failure is the whole connection's.
    pub fn is_plain(&self) -> bool {
        matches!(self, Connection::Plain(_))
    }

    /// One command, to where its key is.
    pub async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::Plain(connection) => answer(connection, command).await,
            Connection::Cluster(cluster) => routed(cluster, command, route(command)).await,
        }
    }

    /// One command, to a node of the cluster; `None` = there is but one server.
    pub async fn command_at(&mut self, node: Option<&Node>, command: &Cmd) -> RedisResult<Value> {
        match (self, node) {
            (Connection::Cluster(cluster), Some(node)) => {
                let at = SingleNodeRoutingInfo::ByAddress { host: node.host.clone(), port: node.port };
                routed(cluster, command, at).await
            }
            (connection, _) => connection.command(command).await,
        }
    }

    /// Several commands, with a result each. Of one server, an error that is more than one command's is the whole's.
    pub async fn pipeline(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<RedisResult<Value>>> {
        match self {
            Connection::Plain(connection) => {
                let replies = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
                healthy(replies.into_iter().map(Value::extract_error).collect())
            }
            Connection::Cluster(cluster) => Ok(spread(cluster, pipeline).await),
        }
    }
}

/// One server's answer to one command. The library hands an error reply on as a value like any other.
pub async fn answer(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    connection.send_packed_command(command).await.and_then(Value::extract_error)
}

async fn routed(
    cluster: &mut ClusterConnection,
    command: &Cmd,
    to: SingleNodeRoutingInfo,
) -> RedisResult<Value> {
    let reply = cluster.route_command(command.clone(), RoutingInfo::SingleNode(to)).await;
    reply.and_then(Value::extract_error)
}

async fn spread(cluster: &ClusterConnection, pipeline: &Pipeline) -> Vec<RedisResult<Value>> {
    let groups = by_key(pipeline).into_iter().map(|commands| {
        let mut cluster = cluster.clone();
        async move {
            let mut results = Vec::with_capacity(commands.len());
            for (at, command) in commands {
                results.push((at, routed(&mut cluster, command, route(command)).await));
            }
            results
        }
    });
    let mut results: Vec<_> = join_all(groups).await.into_iter().flatten().collect();
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The commands and their places, those on one key together.
fn by_key(pipeline: &Pipeline) -> Vec<Vec<(usize, &Cmd)>> {
    let mut groups: Vec<Vec<(usize, &Cmd)>> = Vec::new();
    let mut group_of: HashMap<&[u8], usize> = HashMap::new();
    for (at, command) in pipeline.cmd_iter().enumerate() {
        let group = key(command).map_or(groups.len(), |key| *group_of.entry(key).or_insert(groups.len()));
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push((at, command));
    }
    groups
}

fn route(command: &Cmd) -> SingleNodeRoutingInfo {
    match key(command) {
        Some(key) => SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master)),
        None => SingleNodeRoutingInfo::Random,
    }
}

/// The first key of a command, as far as entries need it.
pub fn key(command: &Cmd) -> Option<&[u8]> {
    let word = |at| match command.args_iter().nth(at)? {
        Arg::Simple(word) => Some(word),
        _ => None,
    };
    match word(0)? {
        b"PING" | b"INFO" | b"SCAN" => None,
        b"EVAL" => word(3),
        _ => word(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Cmd {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command
    }

    #[test]
    fn keys_are_found_where_commands_have_them() {
        for (words, want) in [
            (&["GETRANGE", "k", "0", "9"][..], Some(&b"k"[..])),
            (&["SET", "k", "v", "PX", "5"], Some(b"k")),
            (&["UNLINK", "k"], Some(b"k")),
            (&["EVAL", "return 1", "1", "k", "sum"], Some(b"k")),
            (&["PING"], None),
            (&["SCAN", "0", "MATCH", "k"], None),
        ] {
            assert_eq!(key(&command(words)), want, "{words:?}");
        }
        assert_eq!(route(&command(&["PING"])), SingleNodeRoutingInfo::Random);
    }

    #[test]
    fn commands_on_one_key_stay_together_and_in_order() {
        let mut pipeline = redis::pipe();
        for words in
            [&["SET", "a", "1"][..], &["UNLINK", "b"], &["PING"], &["UNLINK", "a"], &["SET", "b", "2"]]
        {
            pipeline.add_command(command(words));
        }
        let places: Vec<Vec<usize>> =
            by_key(&pipeline).iter().map(|group| group.iter().map(|(at, _)| *at).collect()).collect();
        assert_eq!(places, [vec![0, 3], vec![1, 4], vec![2]]);
    }
}
