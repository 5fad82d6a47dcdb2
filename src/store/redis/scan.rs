//! A walk over our entries in Redis by their heads, some hundred names at a time.

use redis::Value;
use std::time::Duration;

use super::link::{Dedicated, Failure, pipe};
use super::tier::Names;
use super::wire;
use crate::store::codec::{self, HEAD_BYTES, Head};

/// About how many names one step looks at.
const STEP: u32 = 200;
/// How long one round trip of a walk may take.
const LIMIT: Duration = Duration::from_secs(1);

/// A walk. It sees every entry that is there from its beginning to its end, and perhaps some twice.
#[derive(Debug)]
pub struct Walk {
    names: Names,
    cursor: Vec<u8>,
}

impl Walk {
    /// At the beginning.
    pub fn new(names: Names) -> Walk {
        Walk { names, cursor: b"0".to_vec() }
    }

    /// Whether the next step is the first of a round.
    pub fn at_start(&self) -> bool {
        self.cursor == b"0"
    }

    /// The next entries: names and heads. Values that are not ours, or of another version, are left out.
    pub async fn step(&mut self, connection: &mut Dedicated) -> Result<Vec<(Vec<u8>, Head)>, Failure> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&self.cursor).arg("MATCH").arg(self.names.pattern()).arg("COUNT").arg(STEP);
        let (cursor, mut found) = match connection.command(&scan, LIMIT).await? {
            Value::Array(reply) => scanned(&reply),
            _ => (b"0".to_vec(), Vec::new()),
        };
        self.cursor = cursor;
        found.retain(|name| self.names.is_ours(name));
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
}

/// A `SCAN` reply: the next cursor and names. Anything else ends the round.
fn scanned(reply: &[Value]) -> (Vec<u8>, Vec<Vec<u8>>) {
    match reply {
        [cursor, Value::Array(names)] => (
            wire::bytes(cursor).unwrap_or(b"0").to_vec(),
            names.iter().filter_map(wire::bytes).map(<[u8]>::to_vec).collect(),
        ),
        _ => (b"0".to_vec(), Vec::new()),
    }
}
