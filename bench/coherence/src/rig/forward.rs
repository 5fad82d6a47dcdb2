//! A TCP forwarder between one Weir and Redis, which can be told to cut the two off from each other.
//!
//! `Silent` holds everything back, in both directions and also for new connections, as a network does that loses
//! every packet; what was held back arrives, late, when it passes again. `Refused` breaks every connection with a
//! reset and accepts no new one.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the forwarder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything passes.
    Open,
    /// Nothing passes, nobody is told.
    Silent,
    /// Connections are reset.
    Refused,
}

/// A forwarder.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Forwarder {
    /// Starts one to `target`, on a free port.
    pub async fn start(target: SocketAddr) -> std::io::Result<Forwarder> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (way, watched) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, target, watched.clone()));
            }
        });
        Ok(Forwarder { address, way })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn connection(inward: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    inward.set_nodelay(true).ok();
    // Dropping a socket without lingering is a reset.
    inward.set_zero_linger().ok();
    if !open(&mut way).await {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else { return };
    onward.set_nodelay(true).ok();
    onward.set_zero_linger().ok();
    let (inward_read, inward_write) = inward.into_split();
    let (onward_read, onward_write) = onward.into_split();
    // When one direction ends, so does the other.
    tokio::select! {
        () = pump(inward_read, onward_write, way.clone()) => {}
        () = pump(onward_read, inward_write, way) => {}
    }
}

/// Waits while nothing passes; false when connections are to be reset.
async fn open(way: &mut watch::Receiver<Way>) -> bool {
    loop {
        match *way.borrow_and_update() {
            Way::Open => return true,
            Way::Refused => return false,
            Way::Silent => {}
        }
        if way.changed().await.is_err() {
            return false;
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if !open(&mut way).await {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = way.changed() => {
                if changed.is_err() { return }
                continue;
            }
        };
        let Ok(n @ 1..) = read else { return };
        // What was read while the way closed is held back with everything else.
        if !open(&mut way).await || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn silence_holds_back_and_delivers_late_refusal_resets() {
        let forwarder = Forwarder::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(forwarder.address()).await.unwrap();
        let mut buffer = [0; 3];
        stream.write_all(b"one").await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"one");

        forwarder.set(Way::Silent);
        stream.write_all(b"two").await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut buffer)).await;
        assert!(held.is_err(), "nothing may pass");
        forwarder.set(Way::Open);
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"two");

        forwarder.set(Way::Refused);
        assert!(stream.read_exact(&mut buffer).await.is_err());
        let mut another = TcpStream::connect(forwarder.address()).await.unwrap();
        another.write_all(b"six").await.ok();
        assert!(another.read_exact(&mut buffer).await.is_err());

        forwarder.set(Way::Open);
        let mut third = TcpStream::connect(forwarder.address()).await.unwrap();
        third.write_all(b"ten").await.unwrap();
        third.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ten");
    }
}
