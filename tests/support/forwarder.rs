//! A wire between a Weir and its Redis that a story can cut: connections stay open, and nothing passes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards TCP connections from a port of its own. What is under way when it is cut arrives when it is mended.
pub struct Forwarder {
    addr: SocketAddr,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Forwarder {
    /// To a loopback port.
    pub async fn to(port: u16) -> Forwarder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let addr = listener.local_addr().expect("an address");
        let open = watch::Sender::new(true);
        let gate = open.subscribe();
        let accepting = tokio::spawn(async move {
            // Connections live in this set, so that they end with the forwarder.
            let mut pipes = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                while pipes.try_join_next().is_some() {}
                let gate = gate.clone();
                pipes.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    for end in [&near, &far] {
                        end.set_nodelay(true).ok();
                    }
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(pipe(near_in, far_out, gate.clone()), pipe(far_in, near_out, gate));
                });
            }
        });
        Forwarder { addr, open, accepting }
    }

    /// Where Weir should look: database 1 behind it.
    pub fn redis_url(&self) -> String {
        format!("redis://{}/1", self.addr)
    }

    /// Nothing passes any more, in either direction, on old connections and new ones.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    // An end that came while the wire was cut is not heard of until it is mended.
    if gate.wait_for(|open| *open).await.is_ok() {
        to.shutdown().await.ok();
    }
}
