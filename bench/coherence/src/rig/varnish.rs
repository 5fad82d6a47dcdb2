//! Varnish in front of the same backend, asked to ban what a mutation changed: the peer.
//!
//! The way that its documentation teaches: every object carries its URL, and a mutation's answer, on its way through
//! Varnish and before it reaches the client, adds a ban of the URLs that it made untrue.

use std::net::SocketAddr;
use std::path::Path;

use super::process::Process;
use super::{Outcome, START, during, free_port, until};

/// A varnishd.
#[derive(Debug)]
pub struct Varnish {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Varnish {
    /// Starts one in `dir` and waits until it listens.
    pub async fn start(dir: &Path, backend: SocketAddr) -> Outcome<Varnish> {
        let file = dir.join("bans.vcl");
        std::fs::write(&file, vcl(backend)).map_err(during("the VCL"))?;
        let home = dir.join("varnish");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let arguments = [
            "-F",
            "-j",
            "none",
            "-n",
            &home.display().to_string(),
            "-a",
            &address.to_string(),
            "-T",
            "none",
            "-s",
            "malloc,256m",
            "-f",
            &file.display().to_string(),
        ]
        .map(str::to_owned);
        let process = Process::start("varnishd", Path::new("varnishd"), &arguments, dir)?;
        let varnish = Varnish { process, address };
        let there = until("varnishd listens", START, || async {
            !varnish.process.runs() || tokio::net::TcpStream::connect(address).await.is_ok()
        });
        there.await.map_err(|error| format!("{error}\n{}", varnish.process.last_words()))?;
        if varnish.process.runs() {
            Ok(varnish)
        } else {
            Err(format!("varnishd ended:\n{}", varnish.process.last_words()))
        }
    }
}

impl Drop for Varnish {
    fn drop(&mut self) {
        // It has a child of its own, which it ends itself.
        self.process.terminate();
    }
}

fn vcl(backend: SocketAddr) -> String {
    let changed = crate::backend::CHANGED;
    format!(
        r#"vcl 4.1;

backend default {{
    .host = "{}";
    .port = "{}";
    .max_connections = 1000;
}}

sub vcl_recv {{
    if (req.method != "GET" && req.method != "HEAD") {{
        return (pass);
    }}
    return (hash);
}}

sub vcl_backend_response {{
    set beresp.http.x-url = bereq.url;
}}

sub vcl_deliver {{
    if (req.method == "PUT" && resp.http.{changed}) {{
        ban("obj.http.x-url ~ ^(" + resp.http.{changed} + ")$");
    }}
    if (obj.hits > 0) {{
        set resp.http.Cache-Status = "varnish; hit";
    }} else {{
        set resp.http.Cache-Status = "varnish; fwd=miss";
    }}
}}
"#,
        backend.ip(),
        backend.port()
    )
}
