//! Redis as `/healthz` and `/stats` show it.

use crate::store::RedisHealth;

/// Fills in what `INFO` tells, with a warning where a setting endangers the cache.
pub fn read_info(health: &mut RedisHealth, info: &str) {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| field(name).and_then(|v| v.parse::<u64>().ok());
    health.used_memory = number("used_memory");
    health.uptime_seconds = number("uptime_in_seconds");
    health.clients = number("connected_clients");
    health.total_commands = number("total_commands_processed");
    health.version = field("redis_version").map(str::to_owned);
    health.eviction_policy = field("maxmemory_policy").map(str::to_owned);
    let bounded = number("maxmemory").is_some_and(|bytes| bytes > 0);
    match health.eviction_policy.as_deref() {
        Some(policy) if bounded && policy.starts_with("allkeys-") => health.warnings.push(format!(
            "maxmemory-policy is {policy}: Redis may evict the purge log, and the whole cache with it; \
             use a volatile-* policy"
        )),
        Some("noeviction") if bounded => health.warnings.push(
            "maxmemory-policy is noeviction: once its memory is full, Redis stores neither entries nor purges; \
             use a volatile-* policy"
                .to_owned(),
        ),
        _ => {}
    }
    if field("role") == Some("slave") {
        health.warnings.push("this Redis is a replica: the purge log must be on the primary".to_owned());
    }
    let replicas = number("connected_slaves").unwrap_or(0);
    if replicas > 0 && field("min_slaves_good_slaves").is_none() {
        health.warnings.push(
            "Redis has replicas but min-replicas-to-write is 0: a failover may lose purges; set it to 1"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(info: &str) -> RedisHealth {
        let mut health = RedisHealth::default();
        read_info(&mut health, info);
        health
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
    fn garbage_is_no_harm() {
        assert_eq!(read("\r\n:::\r\nused_memory:many"), RedisHealth::default());
    }
}
