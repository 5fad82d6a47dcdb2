//! Redis Cluster: which primary owns the log's slot, and connections that reach every slot.
//!
//! Any node can be asked for the table of slots; nodes it names are remembered besides those configured. The log
//! has a plain connection to the primary that owns its slot. Entries go through the client library's own cluster
//! connection, which follows slots as they move; it starts from a node that has just answered, because it waits for
//! all it is given.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Slot;
use redis::{ErrorKind, RedisError, TlsMode, Value};

use super::node::{Candidates, Node};
use super::{Door, Template, is_primary};
use crate::store::redis::connection::answer;
use crate::store::redis::failure::Failure;
use crate::store::redis::wire;

/// How often the library may follow a redirection or repeat an operation within one of ours.
const RETRIES: u32 = 3;
/// Its pauses in between, milliseconds.
const RETRY_PAUSES: (u64, u64) = (5, 20);

/// What is known about the cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Whom to ask.
    pub candidates: Candidates,
    /// How to log in to any node.
    pub nodes: Template,
    /// The log's key, whose slot decides where the log is.
    pub log: String,
}

/// The table of slots, as one node sees it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Slots(Vec<Range>);

#[derive(Debug, PartialEq, Eq)]
struct Range {
    from: u16,
    to: u16,
    /// The primary first.
    nodes: Vec<Node>,
}

impl Cluster {
    /// A connection to the primary that owns the log's slot, and where it is.
    pub async fn connect_log(&self, door: &Door<'_>) -> Result<(MultiplexedConnection, Node), Failure> {
        let mut failure = Failure::Late;
        for asked in self.candidates.all() {
            self.candidates.trying(&asked);
            match self.connect_log_by(&asked, door).await {
                Ok(connected) => {
                    self.candidates.answered(&asked);
                    return Ok(connected);
                }
                Err(failed) => {
                    tracing::debug!(node = %asked, failure = %failed, "a node did not lead to the log's primary");
                    failure = failed;
                }
            }
        }
        Err(failure)
    }

    async fn connect_log_by(
        &self,
        asked: &Node,
        door: &Door<'_>,
    ) -> Result<(MultiplexedConnection, Node), Failure> {
        let (mut connection, slots) = self.ask(asked, door).await?;
        let owner = slots.owner(&self.log).cloned().ok_or_else(|| {
            RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node owns the purge log's slot"))
        })?;
        if owner != *asked {
            connection = door.open(self.nodes.at(&owner)?).await?;
        }
        if !is_primary(&mut connection).await? {
            let what = "the node that should own the purge log's slot is a replica";
            return Err(RedisError::from((ErrorKind::Client, what, owner.to_string())).into());
        }
        Ok((connection, owner))
    }

    /// A connection that reaches every slot. No single answer takes longer than `response`.
    pub async fn connect_entries(
        &self,
        door: &Door<'_>,
        response: Duration,
    ) -> Result<ClusterConnection, Failure> {
        let start = self.first_to_answer(door).await?.0;
        let (least, most) = RETRY_PAUSES;
        let mut client = ClusterClient::builder([self.nodes.at(&start)?])
            .tcp_settings(super::tcp())
            .retries(RETRIES)
            .min_retry_wait(least)
            .max_retry_wait(most)
            .connection_timeout(door.brief())
            .response_timeout(response);
        if self.nodes.tls {
            client = client.tls(TlsMode::Secure).certs(door.certificates.clone());
        }
        Ok(client.build()?.get_async_connection().await?)
    }

    /// Every primary that owns slots.
    pub async fn primaries(&self, door: &Door<'_>) -> Result<Vec<Node>, Failure> {
        Ok(self.first_to_answer(door).await?.1.primaries())
    }

    async fn first_to_answer(&self, door: &Door<'_>) -> Result<(Node, Slots), Failure> {
        let mut failure = Failure::Late;
        for asked in self.candidates.all() {
            self.candidates.trying(&asked);
            match self.ask(&asked, door).await {
                Ok((_, slots)) => {
                    self.candidates.answered(&asked);
                    return Ok((asked, slots));
                }
                Err(failed) => failure = failed,
            }
        }
        Err(failure)
    }

    async fn ask(&self, node: &Node, door: &Door<'_>) -> Result<(MultiplexedConnection, Slots), Failure> {
        let mut connection = door.open_briefly(self.nodes.at(node)?).await?;
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let reply = door.briefly(answer(&mut connection, &question)).await?;
        let slots = Slots::read(&reply, node).ok_or_else(|| {
            RedisError::from((ErrorKind::UnexpectedReturnType, "the table of slots is not understood"))
        })?;
        self.candidates.learn(&slots.nodes());
        Ok((connection, slots))
    }
}

impl Slots {
    /// Reads `CLUSTER SLOTS`. A node without an address is the one that was asked (`""`, nil) or unknown (`?`).
    fn read(reply: &Value, asked: &Node) -> Option<Slots> {
        let Value::Array(ranges) = reply else { return None };
        let number = |value: &Value| match value {
            Value::Int(n) => u16::try_from(*n).ok(),
            _ => None,
        };
        let node = |value: &Value| {
            let Value::Array(parts) = value else { return None };
            let host = match parts.first()? {
                Value::Nil => "",
                host => std::str::from_utf8(wire::bytes(host)?).ok()?,
            };
            let host = match host {
                "?" => return None,
                "" | "0.0.0.0" | "::" => &asked.host,
                host => host,
            };
            Some(Node { host: host.to_owned(), port: number(parts.get(1)?)? })
        };
        let range = |value: &Value| {
            let Value::Array(parts) = value else { return None };
            let [from, to, primary, replicas @ ..] = &parts[..] else { return None };
            let primary = node(primary);
            // A primary whose address is not known owns its slots all the same: nobody else does.
            let nodes = match primary {
                Some(primary) => std::iter::once(primary).chain(replicas.iter().filter_map(node)).collect(),
                None => Vec::new(),
            };
            Some(Range { from: number(from)?, to: number(to)?, nodes })
        };
        ranges.iter().map(range).collect::<Option<_>>().map(Slots)
    }

    /// Who owns the slot of `key`.
    fn owner(&self, key: &str) -> Option<&Node> {
        let slot = Slot::for_key(key);
        let holds = |r: &&Range| (r.from..=r.to).any(|n| Slot::new(n) == Some(slot));
        self.0.iter().find(holds)?.nodes.first()
    }

    fn primaries(&self) -> Vec<Node> {
        self.0.iter().filter_map(|r| r.nodes.first()).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    fn nodes(&self) -> Vec<Node> {
        self.0.iter().flat_map(|r| &r.nodes).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.to_owned(), port }
    }

    fn at(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::SimpleString("id".to_owned()), Value::Array(vec![])])
    }

    fn text(t: &str) -> Value {
        Value::BulkString(t.as_bytes().to_vec())
    }

    fn range(from: i64, to: i64, nodes: &[Value]) -> Value {
        let mut parts = vec![Value::Int(from), Value::Int(to)];
        parts.extend(nodes.iter().cloned());
        Value::Array(parts)
    }

    #[test]
    fn the_table_says_who_owns_what() {
        let reply = Value::Array(vec![
            range(0, 5460, &[at(text("10.0.0.1"), 7000), at(text("10.0.0.4"), 7003)]),
            range(5461, 12999, &[at(text("10.0.0.2"), 7001)]),
            range(13000, 16000, &[at(Value::Nil, 7002)]),
            range(16001, 16383, &[at(text(""), 7002)]),
        ]);
        let slots = Slots::read(&reply, &node("asked", 1)).unwrap();
        // `CLUSTER KEYSLOT cache:log` is 12638, of `a` 15495, of `b` 3300.
        assert_eq!(slots.owner("cache:log"), Some(&node("10.0.0.2", 7001)));
        assert_eq!(slots.owner("{cache:log}:state"), Some(&node("10.0.0.2", 7001)));
        assert_eq!(slots.owner("a"), Some(&node("asked", 7002)));
        assert_eq!(slots.owner("b"), Some(&node("10.0.0.1", 7000)));
        let primaries = [node("10.0.0.1", 7000), node("10.0.0.2", 7001), node("asked", 7002)];
        assert_eq!(slots.primaries(), primaries);
        assert_eq!(slots.nodes().len(), 4);
    }

    #[test]
    fn an_unknown_owner_is_nobody_and_garbage_is_no_table() {
        let unknown = range(0, 16383, &[at(text("?"), 7000), at(text("10.0.0.4"), 7003)]);
        let slots = Slots::read(&Value::Array(vec![unknown]), &node("asked", 1)).unwrap();
        assert_eq!(slots.owner("a"), None, "not its replica");
        assert_eq!(Slots::default().owner("a"), None);
        for garbage in
            [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![range(0, 99999, &[])])]
        {
            assert_eq!(Slots::read(&garbage, &node("asked", 1)), None);
        }
    }
}
