//! Why an operation brought nothing, and what that says about the connection it was tried on.
//!
//! An error reply is judged by its code alone. Redis may have refused this one thing and be well; it may refuse
//! writes and go on being read; the connection may lead to the wrong server (a demoted primary, a cluster node that
//! lost the slot); or the server takes nothing at all. The first two leave the connection in use.

use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};

/// Why an operation brought nothing.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Not tried: the breaker is open.
    Skipped,
    /// No answer in time.
    Late,
    /// The connection failed, or Redis refused.
    Failed(RedisError),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Skipped => f.write_str("not tried, the breaker is open"),
            Failure::Late => f.write_str("no answer in time"),
            Failure::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Failure {
        Failure::Failed(error)
    }
}

impl Failure {
    /// Whether the connection is as good as before.
    pub fn spares_the_connection(&self) -> bool {
        matches!(self, Failure::Failed(error) if matches!(blame(error), Blame::Request | Blame::Writes))
    }

    /// What it says, if it is an error that says something.
    pub fn blame(&self) -> Option<Blame> {
        match self {
            Failure::Failed(error) => Some(blame(error)),
            Failure::Skipped | Failure::Late => None,
        }
    }
}

/// What an error says about the connection it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Redis is well and refused this one thing: a value of another type, a full memory.
    Request,
    /// Too few replicas listen to this primary: it refuses writes, and reads go on. It may have been replaced without
    /// knowing it yet, so whoever has to write looks for the primary anew.
    Writes,
    /// The connection leads to the wrong server: Redis has to be looked up anew.
    Place,
    /// The connection failed, or this server takes nothing from us at present.
    Server,
}

/// Replies of a server that is not, or no longer, the primary of what it was asked for.
const MISPLACED: [&str; 7] =
    ["READONLY", "MASTERDOWN", "UNBLOCKED", "LOADING", "MOVED", "ASK", "CLUSTERDOWN"];
/// Replies of the right server that nothing can be had from just now.
const UNWELL: [&str; 5] = ["TRYAGAIN", "NOPERM", "NOAUTH", "WRONGPASS", "BUSY"];

/// Judges an error.
pub fn blame(error: &RedisError) -> Blame {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => match code(error) {
            code if MISPLACED.contains(&code) => Blame::Place,
            "NOREPLICAS" => Blame::Writes,
            code if UNWELL.contains(&code) => Blame::Server,
            _ => Blame::Request,
        },
        ErrorKind::UnexpectedReturnType => Blame::Request,
        _ => Blame::Server,
    }
}

/// The reply's code; of an error within a script, that of the command which failed. Redis 7 puts it first, Redis 6
/// wraps it: `ERR Error running script (…): @user_script: 1: -READONLY You can't write …`.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let within = || error.detail()?.split_once("script: ")?.1.split_once(": -")?.1.split_whitespace().next();
    if code == "ERR" { within().unwrap_or(code) } else { code }
}

/// A pipeline whose commands each have a result of their own.
pub fn pipe() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline
}

/// The results of a pipeline, unless one of them says more than that its command was refused.
pub fn healthy(results: Vec<RedisResult<Value>>) -> RedisResult<Vec<RedisResult<Value>>> {
    let worse = |e: &&RedisError| !matches!(blame(e), Blame::Request | Blame::Writes);
    match results.iter().find_map(|r| r.as_ref().err().filter(worse)) {
        Some(error) => Err(error.clone()),
        None => Ok(results),
    }
}

/// Whether one of these was a write that a primary refused for want of replicas.
pub fn refuses_writes(results: &[RedisResult<Value>]) -> bool {
    results.iter().any(|r| r.as_ref().is_err_and(|e| blame(e) == Blame::Writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    #[test]
    fn the_wrong_server_is_known_by_its_words() {
        for text in [
            "READONLY You can't write against a read only replica.",
            "READONLY You can't write against a read only replica. script: 5f3a, on @user_script:9.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "LOADING Redis is loading the dataset in memory",
            "MOVED 3999 127.0.0.1:6381",
            "ASK 3999 127.0.0.1:6381",
            "CLUSTERDOWN The cluster is down",
            "ERR Error running script (call to f_9a): @user_script:9: @user_script: 9: -READONLY You can't write",
        ] {
            assert_eq!(blame(&reply(text)), Blame::Place, "{text}");
        }
    }

    #[test]
    fn a_refused_request_leaves_the_connection_in_use() {
        for text in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "NOSCRIPT No matching script. Please use EVAL.",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR value is not an integer or out of range",
        ] {
            assert_eq!(blame(&reply(text)), Blame::Request, "{text}");
            assert!(Failure::from(reply(text)).spares_the_connection());
        }
    }

    #[test]
    fn too_few_replicas_stop_writes_alone() {
        for text in [
            "NOREPLICAS Not enough good replicas to write.",
            "NOREPLICAS Not enough good replicas to write. script: 5d0b, on @user_script:69.",
            "ERR Error running script (call to f_9a): @user_script:9: @user_script: 9: -NOREPLICAS Not enough",
        ] {
            assert_eq!(blame(&reply(text)), Blame::Writes, "{text}");
            assert!(Failure::from(reply(text)).spares_the_connection());
            assert!(refuses_writes(&[Ok(Value::Nil), Err(reply(text))]));
        }
        assert!(!refuses_writes(&[Ok(Value::Nil), Err(reply("OOM command not allowed"))]));
    }

    #[test]
    fn a_server_that_takes_nothing_is_left() {
        for text in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM User weir has no permissions to run the 'xadd' command",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
        ] {
            assert_eq!(blame(&reply(text)), Blame::Server, "{text}");
        }
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(blame(&broken), Blame::Server);
        assert!(!Failure::Late.spares_the_connection());
    }

    #[test]
    fn one_misplaced_reply_is_the_whole_pipelines() {
        let good = || Ok(Value::Int(1));
        let moved = || Err(reply("MOVED 1 127.0.0.1:1"));
        assert!(healthy(vec![good(), Err(reply("NOREPLICAS Not enough")), good()]).is_ok());
        assert_eq!(healthy(vec![good(), moved()]).unwrap_err().code(), Some("MOVED"));
    }
}
