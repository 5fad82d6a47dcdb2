//! Redis behind Sentinel: the sentinels say who the primary is, and it is believed when it says so itself.
//!
//! After a failover a sentinel may name the old primary for a while. So whoever is named is asked for its `ROLE`, and
//! if it is none, or cannot be reached, the next sentinel is asked.

use redis::{ErrorKind, RedisError, Value};

use super::node::{Candidates, Node};
use super::{Door, Template, is_primary};
use crate::store::redis::connection::answer;
use crate::store::redis::failure::Failure;
use crate::store::redis::wire;

/// What is known about the sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// Whom to ask.
    pub candidates: Candidates,
    /// What they call the primary and its replicas.
    pub service: String,
    /// How to log in to them.
    pub door: Template,
    /// How to log in to the servers they name.
    pub servers: Template,
}

impl Sentinels {
    /// A connection to the primary, and where it is.
    pub async fn connect(
        &self,
        door: &Door<'_>,
    ) -> Result<(redis::aio::MultiplexedConnection, Node), Failure> {
        let mut failure = Failure::Late;
        for sentinel in self.candidates.all() {
            self.candidates.trying(&sentinel);
            match self.connect_by(&sentinel, door).await {
                Ok(connected) => {
                    self.candidates.answered(&sentinel);
                    return Ok(connected);
                }
                Err(failed) => {
                    tracing::debug!(%sentinel, failure = %failed, "a sentinel did not lead to a primary");
                    failure = failed;
                }
            }
        }
        Err(failure)
    }

    async fn connect_by(
        &self,
        sentinel: &Node,
        door: &Door<'_>,
    ) -> Result<(redis::aio::MultiplexedConnection, Node), Failure> {
        let mut asked = door.open_briefly(self.door.at(sentinel)?).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let reply = door.briefly(answer(&mut asked, &question)).await?;
        let primary = named(&reply).ok_or_else(|| self.unknown())?;
        let mut connection = door.open(self.servers.at(&primary)?).await?;
        if !is_primary(&mut connection).await? {
            return Err(Failure::Failed(RedisError::from((
                ErrorKind::Client,
                "the server named by a sentinel is a replica",
                primary.to_string(),
            ))));
        }
        Ok((connection, primary))
    }

    fn unknown(&self) -> Failure {
        let what = "the sentinels do not know this service";
        let error = (ErrorKind::MasterNameNotFoundBySentinel, what, self.service.clone());
        Failure::Failed(RedisError::from(error))
    }
}

/// Reads the reply: host and port, or nothing.
fn named(reply: &Value) -> Option<Node> {
    let Value::Array(parts) = reply else { return None };
    let [host, port] = &parts[..] else { return None };
    let text = |value| std::str::from_utf8(wire::bytes(value)?).ok();
    Some(Node { host: text(host)?.to_owned(), port: text(port)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_primary_is_read() {
        let text = |t: &str| Value::BulkString(t.as_bytes().to_vec());
        let node = Node { host: "10.0.0.1".to_owned(), port: 6379 };
        assert_eq!(named(&Value::Array(vec![text("10.0.0.1"), text("6379")])), Some(node));
        assert_eq!(named(&Value::Nil), None, "a service it does not know");
        assert_eq!(named(&Value::Array(vec![text("10.0.0.1"), text("many")])), None);
        assert_eq!(named(&Value::Array(vec![text("10.0.0.1")])), None);
    }
}
