//! A walk over our entries in Redis by their heads, some hundred names at a time.

use redis::Value;
use std::time::Duration;

use super::connect::node::Node;
use super::link::{Dedicated, Failure, Link, pipe};
use super::tier::Names;
use super::wire;
use crate::store::codec::{self, HEAD_BYTES, Head};

/// About how many names one step looks at.
const STEP: u32 = 200;
/// About how many names one step of a count in passing looks at, and how many steps it takes at most.
const COUNT_STEP: u32 = 1000;
const COUNT_STEPS: u32 = 40;
/// How long one round trip of a walk may take.
const LIMIT: Duration = Duration::from_secs(1);

/// A walk, in a cluster over one primary after the other. It sees every entry that is there from its beginning to
/// its end, and perhaps some twice.
#[derive(Debug)]
pub struct Walk {
    names: Names,
    /// Where it is, last, and where it still has to go.
    nodes: Vec<Option<Node>>,
    cursor: Vec<u8>,
}

impl Walk {
    /// At the beginning.
    pub fn new(names: Names) -> Walk {
        Walk { names, nodes: Vec::new(), cursor: b"0".to_vec() }
    }

    /// Whether the next step is the first of a round.
    pub fn at_start(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The next entries: names and heads. Values that are not ours, or of another version, are left out. Where
    /// several servers are walked, a failure ends the round: one of them may have gone for good.
    pub async fn step(&mut self, connection: &mut Dedicated) -> Result<Vec<(Vec<u8>, Head)>, Failure> {
        if self.at_start() {
            self.begin(connection.primaries().await?);
        }
        let found = self.look(connection).await;
        if found.is_err() && self.nodes.iter().any(Option::is_some) {
            self.begin(Some(Vec::new()));
        }
        found
    }

    fn begin(&mut self, primaries: Option<Vec<Node>>) {
        self.nodes = primaries.map_or_else(|| vec![None], |nodes| nodes.into_iter().map(Some).collect());
        self.cursor = b"0".to_vec();
    }

    fn node(&self) -> Option<&Node> {
        self.nodes.last()?.as_ref()
    }

    async fn look(&mut self, connection: &mut Dedicated) -> Result<Vec<(Vec<u8>, Head)>, Failure> {
        let reply = connection.command_at(self.node(), &self.scan(STEP), LIMIT).await?;
        let found = self.scanned(&reply);
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut heads = pipe();
        for name in &found {
            heads.cmd("GETRANGE").arg(name).arg(0).arg(HEAD_BYTES - 1);
        }
        let replies = connection.pipeline(&heads, LIMIT).await?;
        let heads = replies.iter().map(|r| codec::read_head(wire::bytes(r.as_ref().ok()?)?).ok());
        Ok(found.into_iter().zip(heads).filter_map(|(name, head)| Some((name, head?))).collect())
    }

    fn scan(&self, count: u32) -> redis::Cmd {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&self.cursor).arg("MATCH").arg(self.names.pattern()).arg("COUNT").arg(count);
        scan
    }

    /// Takes the reply's cursor and our names in it. A reply that is none ends the walk over this server.
    fn scanned(&mut self, reply: &Value) -> Vec<Vec<u8>> {
        let (cursor, names) = match reply {
            Value::Array(parts) => match &parts[..] {
                [cursor, Value::Array(names)] => (wire::bytes(cursor).unwrap_or(b"0"), &names[..]),
                _ => (&b"0"[..], &[][..]),
            },
            _ => (&b"0"[..], &[][..]),
        };
        self.cursor = cursor.to_vec();
        if cursor == b"0" {
            self.nodes.pop();
        }
        let names = names.iter().filter_map(wire::bytes);
        names.filter(|name| self.names.is_ours(name)).map(<[u8]>::to_vec).collect()
    }
}

/// How many values bear our names, as long as they are few enough to be counted in passing; `None` otherwise.
pub async fn count(link: &Link, names: &Names) -> Option<u64> {
    let mut walk = Walk::new(names.clone());
    walk.begin(link.primaries().await.ok()?);
    let mut all = 0u64;
    for _ in 0..COUNT_STEPS {
        let reply = link.command_at(walk.node(), &walk.scan(COUNT_STEP)).await.ok()?;
        all += u64::try_from(walk.scanned(&reply).len()).unwrap_or(0);
        if walk.at_start() {
            return Some(all);
        }
    }
    None
}
