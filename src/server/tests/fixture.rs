//! What unit tests of connections need: two ends of one, and whom a server serves it for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::server::{Hold, ServerLimits};

/// The client's end, the server's, and the client's address. The system's patience is not the test's clock.
pub(in crate::server) async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, addr) = listener.accept().await.unwrap();
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    (client, server, addr)
}

/// The defaults, for one connection.
pub(in crate::server) fn limits() -> ServerLimits {
    ServerLimits {
        header_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(75),
        max_header_bytes: 1 << 16,
        max_connections: 1,
        max_streams: 1,
    }
}

/// A place under a limit that nobody else asks for.
pub(in crate::server) fn hold() -> Hold {
    Hold(Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()))
}
