//! `weir`: serve until a signal, then drain.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::assembly::{self, Listeners, Running, StartError};
use super::load::{self, Accepted};
use super::{Exit, notify};
use crate::config::{Config, Severity};
use crate::server::Drained;
use crate::telemetry::{self, AccessLog};
use crate::time::Clock;

pub(super) fn run(file: Option<&Path>) -> Exit {
    let accepted = match load::load(file) {
        Ok(accepted) => accepted,
        Err(refused) => {
            eprintln!("{refused}");
            return Exit::Config;
        }
    };
    let telemetry = match telemetry::init(&accepted.config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Config;
        }
    };
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(serve(accepted, telemetry.access.clone()));
    // Nothing is left that is worth waiting for; a thread stuck in a name look-up must not hold the exit up.
    runtime.shutdown_background();
    exit
}

async fn serve(accepted: Accepted, access: AccessLog) -> Exit {
    let Accepted { config, warnings, file } = accepted;
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be listened for");
            return Exit::Failed;
        }
    };
    for warning in &warnings {
        match warning.severity {
            Severity::Note => tracing::info!("{warning}"),
            _ => tracing::warn!("{warning}"),
        }
    }
    // Where nothing can be renewed, SIGHUP ends the process as ever.
    let hangup = match config.tls.as_ref().map(|_| signal(SignalKind::hangup())).transpose() {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(%error, "SIGHUP cannot be listened for");
            return Exit::Failed;
        }
    };
    let started = async {
        let listeners = Listeners::bind(&config)?;
        announce(&config, &listeners, &file);
        assembly::start(config, listeners, access, Clock::system()).await
    };
    // A signal may come while Redis is being waited for.
    let started = tokio::select! {
        started = started => started,
        _ = signals.next() => return Exit::Clean,
    };
    match started {
        Ok(running) => {
            notify::ready("Serving");
            tracing::info!("ready");
            until_signal(running, signals, hangup).await
        }
        Err(error) => {
            tracing::error!("{error}");
            if matches!(error, StartError::Settings(_)) { Exit::Config } else { Exit::Failed }
        }
    }
}

/// What is about to serve, in the log's words; nothing here is secret.
fn announce(config: &Config, listeners: &Listeners, file: &str) {
    let traffic = listeners.traffic.local_addr().unwrap_or(config.listen);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = file,
        listen = %traffic,
        tls = config.tls.is_some(),
        upstream = %config.upstream.origin,
        routes = config.policy.routes.iter().count(),
        purge_rules = config.policy.tags.rules.len(),
        memory_bytes = config.store.memory_bytes,
        redis = config.store.redis.as_ref().map_or("none", |redis| redis.shown.as_str()),
        "weir starts"
    );
    match &config.admin {
        None => tracing::info!("the admin listener is switched off"),
        Some(admin) => {
            let bound = listeners.admin.as_ref().and_then(|listener| listener.local_addr().ok());
            let listen = bound.unwrap_or(admin.listen);
            tracing::info!(%listen, token = admin.token.is_some(), "admin listener");
            if !listen.ip().is_loopback() {
                tracing::warn!(%listen, "the admin listener can be reached from other machines; its reads need no token");
            }
            if admin.token.is_none() {
                tracing::warn!("no admin token: purge, flush, enable and disable are refused");
            }
        }
    }
}

async fn until_signal(mut running: Running, mut signals: Signals, mut hangup: Option<Signal>) -> Exit {
    let name = loop {
        tokio::select! {
            (name, _) = signals.next() => break name,
            () = next(&mut hangup) => running.look_at_certificates(),
            () = running.failed() => {
                tracing::error!("the traffic listener ended by itself");
                return Exit::Failed;
            }
        }
    };
    notify::stopping();
    tracing::info!(signal = name, "draining");
    let clock = Clock::system();
    let began = clock.elapsed();
    tokio::select! {
        drained = running.stop() => finish(drained, clock.elapsed().saturating_sub(began)),
        (name, number) = signals.next() => {
            tracing::warn!(signal = name, "second signal: ending at once");
            std::process::exit(128 + number)
        }
    }
}

fn finish(drained: Drained, took: Duration) -> Exit {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match drained {
        Drained::Clean => {
            tracing::info!(took_ms, "stopped; every request was answered");
            Exit::Clean
        }
        Drained::Cut(connections) => {
            tracing::warn!(
                took_ms,
                connections,
                "stopped; requests were cut off at the end of drain_timeout"
            );
            Exit::Cut
        }
    }
}

/// The next of a signal that may not be listened for.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The signals that mean "stop".
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one's name and number.
    pub(super) async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}
