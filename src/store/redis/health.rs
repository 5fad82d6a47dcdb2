//! Redis as `/healthz` and `/stats` show it.

use futures_util::future::join_all;
use redis::Value;

use super::connect::node::Node;
use super::link::Link;
use crate::store::RedisHealth;

/// Has every server that holds entries tell about itself, within the link's deadline each.
pub async fn ask(health: &mut RedisHealth, link: &Link) {
    let nodes = match link.primaries().await {
        Ok(Some(nodes)) => nodes.into_iter().map(Some).collect(),
        Ok(None) => vec![None],
        Err(failure) => {
            health.warnings.push(format!("the cluster's nodes cannot be told: {failure}"));
            return;
        }
    };
    let asked = nodes.iter().map(|node| async move {
        match link.command_at(node.as_ref(), &redis::cmd("INFO")).await {
            Ok(Value::BulkString(info)) => Ok(String::from_utf8_lossy(&info).into_owned()),
            Ok(_) => Err("no text".to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    });
    for (node, info) in nodes.iter().zip(join_all(asked).await) {
        match info {
            Ok(info) => read_info(health, node.as_ref(), &info),
            Err(why) => warn(health, node.as_ref(), &format!("INFO: {why}")),
        }
    }
}

fn warn(health: &mut RedisHealth, node: Option<&Node>, words: &str) {
    health.warnings.push(match node {
        Some(node) => format!("{node}: {words}"),
        None => words.to_owned(),
    });
}

/// Adds what one server's `INFO` tells, with a warning where a setting endangers the cache. Memory, clients and
/// commands of several servers (`node` is one of them) are summed.
fn read_info(health: &mut RedisHealth, node: Option<&Node>, info: &str) {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| field(name).and_then(|v| v.parse::<u64>().ok());
    let add = |sum: &mut Option<u64>, name: &str| {
        if let Some(n) = number(name) {
            *sum = Some(sum.unwrap_or(0).saturating_add(n));
        }
    };
    add(&mut health.used_memory, "used_memory");
    add(&mut health.clients, "connected_clients");
    add(&mut health.total_commands, "total_commands_processed");
    let uptime = number("uptime_in_seconds");
    health.uptime_seconds = health.uptime_seconds.into_iter().chain(uptime).min();
    health.version = field("redis_version").map(str::to_owned).or(health.version.take());
    health.eviction_policy = field("maxmemory_policy").map(str::to_owned).or(health.eviction_policy.take());
    let bounded = number("maxmemory").is_some_and(|bytes| bytes > 0);
    match field("maxmemory_policy") {
        Some(policy) if bounded && policy.starts_with("allkeys-") => {
            let words = format!(
                "maxmemory-policy is {policy}: Redis may evict the purge log, and the whole cache with it; \
                 use a volatile-* policy"
            );
            warn(health, node, &words);
        }
        Some("noeviction") if bounded => warn(
            health,
            node,
            "maxmemory-policy is noeviction: once its memory is full, Redis stores neither entries nor purges; \
             use a volatile-* policy",
        ),
        _ => {}
    }
    if field("role") == Some("slave") {
        warn(health, node, "this Redis is a replica: the purge log must be on the primary");
    }
    if let Some(words) =
        replication(health.mode, number("connected_slaves"), number("min_slaves_good_slaves"))
    {
        warn(health, node, words);
    }
}

/// What is wrong with the way replicas are kept. The count of replicas in step is there only while
/// `min-replicas-to-write` is set.
fn replication(mode: &str, replicas: Option<u64>, in_step: Option<u64>) -> Option<&'static str> {
    match (replicas, in_step) {
        (_, Some(0)) => Some(
            "no replica is in step, and min-replicas-to-write is set: Redis stores neither entries nor purges",
        ),
        (Some(replicas), None) if replicas > 0 => {
            Some("Redis has replicas but min-replicas-to-write is 0: a failover may lose purges; set it to 1")
        }
        (None, None) if matches!(mode, "sentinel" | "cluster") => Some(
            "whether min-replicas-to-write is set cannot be told: while it is 0, a failover may lose purges",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(info: &str) -> RedisHealth {
        let mut health = RedisHealth::default();
        read_info(&mut health, None, info);
        health
    }

    fn mode(mode: &'static str, info: &str) -> Vec<String> {
        let mut health = RedisHealth { mode, ..RedisHealth::default() };
        read_info(&mut health, None, info);
        health.warnings
    }

    #[test]
    fn fields_are_read() {
        let h = read(
            "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:5\r\nconnected_clients:2\r\nused_memory:1024\r\n\
             total_commands_processed:9\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n",
        );
        assert_eq!(h.version.as_deref(), Some("7.0.15"));
        assert_eq!(
            (h.uptime_seconds, h.clients, h.used_memory, h.total_commands),
            (Some(5), Some(2), Some(1024), Some(9))
        );
        assert!(h.warnings.is_empty(), "no limit, nothing is evicted");
    }

    #[test]
    fn dangerous_settings_are_named() {
        let policy = |p: &str| read(&format!("maxmemory:1000\r\nmaxmemory_policy:{p}\r\n")).warnings.len();
        assert_eq!([policy("volatile-lru"), policy("allkeys-lru"), policy("noeviction")], [0, 1, 1]);
        assert_eq!(read("role:slave\r\n").warnings.len(), 1);
        assert_eq!(read("role:master\r\nconnected_slaves:1\r\n").warnings.len(), 1);
        assert_eq!(read("connected_slaves:1\r\nmin_slaves_good_slaves:1\r\n").warnings.len(), 0);
    }

    #[test]
    fn replicas_that_may_lose_purges_are_warned_about() {
        assert!(mode("standalone", "role:master\r\n").is_empty(), "nothing fails over");
        assert!(mode("sentinel", "connected_slaves:0\r\n").is_empty());
        assert!(mode("sentinel", "connected_slaves:2\r\nmin_slaves_good_slaves:2\r\n").is_empty());
        assert!(mode("cluster", "connected_slaves:2\r\n")[0].contains("set it to 1"));
        assert!(mode("cluster", "role:master\r\n")[0].contains("cannot be told"));
        assert!(
            mode("sentinel", "connected_slaves:2\r\nmin_slaves_good_slaves:0\r\n")[0].contains("in step")
        );
    }

    #[test]
    fn several_servers_add_up() {
        let mut health = RedisHealth { mode: "cluster", ..RedisHealth::default() };
        let node = |port| Node { host: "h".to_owned(), port };
        for (port, uptime, role) in [(1, 9, "master"), (2, 5, "slave")] {
            let info = format!(
                "used_memory:10\r\nconnected_clients:2\r\nuptime_in_seconds:{uptime}\r\nconnected_slaves:0\r\nrole:{role}\r\n"
            );
            read_info(&mut health, Some(&node(port)), &info);
        }
        assert_eq!((health.used_memory, health.clients, health.uptime_seconds), (Some(20), Some(4), Some(5)));
        assert_eq!(health.warnings.len(), 1);
        assert!(health.warnings[0].starts_with("h:2: this Redis is a replica"), "{:?}", health.warnings);
    }

    #[test]
    fn garbage_is_no_harm() {
        assert_eq!(read("\r\n:::\r\nused_memory:many"), RedisHealth::default());
    }
}
