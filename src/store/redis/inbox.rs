//! A purge put into the log's inbox by somebody who runs no Weir: one command, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use super::link::{Connector, Dedicated};
use super::wire::{self, LogKeys};
use super::{RedisConfig, prefix};

/// The inbox' name in Redis.
pub fn name(config: &RedisConfig, namespace: &str) -> String {
    LogKeys::new(&prefix(config, namespace)).inbox
}

/// Writes a purge into the inbox of a namespace, for any running Weir to take up; its place there comes back. The
/// error is a sentence without secrets.
pub async fn submit(
    config: &RedisConfig,
    namespace: &str,
    fields: &[(&str, &str)],
    limit: Duration,
) -> Result<String, String> {
    let keys = LogKeys::new(&prefix(config, namespace));
    let mut connection = Dedicated::new(Arc::new(Connector::new(config, &keys.stream)));
    let failed = |why: String| format!("{}: {why}", config.shown);
    let reply = connection.command(&wire::outside(&keys, fields), limit).await;
    let reply = reply.map_err(|failure| failed(failure.to_string()))?;
    let id = wire::bytes(&reply).and_then(|bytes| std::str::from_utf8(bytes).ok());
    id.map(str::to_owned).ok_or_else(|| failed("it did not say where the purge stands".to_owned()))
}
