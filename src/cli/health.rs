//! `weir health`: asks a running Weir whether it is ready. Made for container health checks, so it works
//! without a configuration, prints one line, and never waits long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
        Ok(answer) if answer.status == StatusCode::OK => {
            super::print(if arguments.live { "live\n" } else { "ready\n" });
            Exit::Clean
        }
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

/// The URL to ask.
fn target(file: Option<&Path>, arguments: &HealthArguments) -> Result<Uri, String> {
    let probe = if arguments.live { "/livez" } else { "/readyz" };
    if let Some(url) = &arguments.url {
        return from_url(url, probe);
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
    from_url(&format!("http://{}", reachable(listen)), probe)
}

/// A listener on every address is asked on the loopback one.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

fn from_url(text: &str, probe: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is not a URL such as http://127.0.0.1:8081");
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else { return Err(wrong()) };
    let path = if url.path() == "/" { probe } else { url.path() };
    format!("http://{authority}{path}").parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8081", "127.0.0.1:8081"), ("[::]:9", "[::1]:9"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn the_probe_is_asked_unless_the_url_has_a_path() {
        let asked = |url| from_url(url, "/readyz").map(|url| url.to_string());
        assert_eq!(asked("http://127.0.0.1:8081").unwrap(), "http://127.0.0.1:8081/readyz");
        assert_eq!(asked("http://[::1]:8081/").unwrap(), "http://[::1]:8081/readyz");
        assert_eq!(asked("http://weir:8081/healthz").unwrap(), "http://weir:8081/healthz");
        for wrong in ["", "127.0.0.1:8081", "https://x", "http://", "/readyz"] {
            assert!(asked(wrong).unwrap_err().contains("is not a URL"), "{wrong}");
        }
    }
}
