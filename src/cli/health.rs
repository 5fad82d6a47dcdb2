//! `weir health`: asks a running Weir whether it is ready. Made for container health checks, so it works
//! without a configuration, prints one line, and never waits long.

use std::path::Path;

use http::{Method, StatusCode, Uri};

use super::{Exit, HealthArguments, client, load};

const DEFAULT_LISTEN: &str = "127.0.0.1:8081";

pub(super) fn health(file: Option<&Path>, arguments: &HealthArguments) -> Exit {
    let url = match target(file, arguments) {
        Ok(url) => url,
        Err(why) => {
            eprintln!("weir health: {why}");
            return Exit::Config;
        }
    };
    // One request needs one thread.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weir health: {error}");
            return Exit::Failed;
        }
    };
    match runtime.block_on(client::send(Method::GET, &url, &[], "", arguments.timeout)) {
        Ok(answer) if answer.status == StatusCode::OK => said(&url, &answer.body),
        Ok(answer) => {
            let said: String = String::from_utf8_lossy(&answer.body).chars().take(500).collect();
            eprintln!("weir health: {url} answered {}: {}", answer.status, said.trim());
            Exit::Failed
        }
        Err(why) => {
            eprintln!("weir health: {why}");
            Exit::Failed
        }
    }
}

/// What a probe that answers 200 says. A page that says nothing about how Weir is, is no probe.
fn said(url: &Uri, body: &[u8]) -> Exit {
    match word(url.path(), body).as_deref() {
        Some(word @ ("ready" | "live" | "ok" | "degraded")) => {
            super::print(&format!("{word}\n"));
            Exit::Clean
        }
        Some(word) => {
            eprintln!("weir health: {url} says {word:?}");
            Exit::Failed
        }
        None => {
            eprintln!("weir health: {url} does not tell how Weir is; ask /readyz, /livez or /healthz");
            Exit::Config
        }
    }
}

/// The admin listener's probes have a `status`, those of the traffic port are the word `ok`.
fn word(path: &str, body: &[u8]) -> Option<String> {
    if body.trim_ascii() == b"ok" {
        return Some(if path == "/livez" { "live" } else { "ready" }.to_owned());
    }
    let said: serde_json::Value = serde_json::from_slice(body).ok()?;
    said.get("status")?.as_str().map(str::to_owned)
}

/// The URL to ask.
fn target(file: Option<&Path>, arguments: &HealthArguments) -> Result<Uri, String> {
    let probe = if arguments.live { "/livez" } else { "/readyz" };
    if let Some(url) = &arguments.url {
        return client::from_url(url, probe);
    }
    let listen = match file {
        Some(file) => {
            let config = load::load(Some(file)).map_err(|problems| problems.to_string())?.config;
            let admin = config.admin.ok_or("the admin listener is switched off ([admin] enabled = false)")?;
            admin.listen
        }
        None => {
            let listen = std::env::var("WEIR_ADMIN_LISTEN").unwrap_or_else(|_| DEFAULT_LISTEN.to_owned());
            let wrong =
                |_| format!("WEIR_ADMIN_LISTEN = {listen:?} is not an address such as {DEFAULT_LISTEN}");
            listen.parse().map_err(wrong)?
        }
    };
    client::from_url(&format!("http://{}", client::reachable(listen)), probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_known_by_its_word() {
        let page = |path, body: &str| word(path, body.as_bytes());
        assert_eq!(page("/readyz", r#"{"status":"ready"}"#).as_deref(), Some("ready"));
        assert_eq!(page("/healthz", r#"{"status":"degraded","version":"1"}"#).as_deref(), Some("degraded"));
        assert_eq!(page("/livez", "ok\n").as_deref(), Some("live"));
        assert_eq!(page("/readyz", "ok\n").as_deref(), Some("ready"));
        for (path, other) in [("/stats", r#"{"hits":3}"#), ("/metrics", "weir_ready 1\n"), ("/", "")] {
            assert_eq!(page(path, other), None, "{path}");
        }
    }

    #[test]
    fn only_what_is_well_is_healthy() {
        let url = Uri::from_static("http://127.0.0.1:8081/healthz");
        assert_eq!(said(&url, br#"{"status":"ok"}"#), Exit::Clean);
        assert_eq!(said(&url, br#"{"status":"degraded"}"#), Exit::Clean);
        assert_eq!(said(&url, br#"{"status":"draining"}"#), Exit::Failed);
        assert_eq!(said(&url, br#"{"hits":3}"#), Exit::Config);
    }
}
