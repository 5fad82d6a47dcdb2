//! The accept loop: HTTP/1.1, few connections, short patience.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Admin, AdminState};

/// Most connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// From accept, or the last answer, to a whole request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest request head, bytes.
const HEADER_BYTES: usize = 16 * 1024;
/// How long answers under way may take once `shutdown` is called.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then lets answers and purges under way end (five seconds at most).
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: CancellationToken) {
    let admin = Arc::new(Admin { state, tasks: TaskTracker::new() });
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some((stream, slot)) = accept(&listener, &slots, &shutdown).await {
        let connection = serve_connection(stream, admin.clone(), shutdown.clone());
        admin.tasks.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    drop(listener);
    admin.tasks.close();
    if tokio::time::timeout(GRACE, admin.tasks.wait()).await.is_err() {
        tracing::warn!(open = admin.tasks.len(), "admin connections were cut at shutdown");
    }
}

/// The next connection and its slot; `None` once `shutdown` was called.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        // The semaphore is never closed, so `acquire` fails never.
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                // Out of descriptors, or a client that was gone at once: neither may end the listener.
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        connection = next => connection,
    }
}

async fn serve_connection(stream: TcpStream, admin: Arc<Admin>, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
}
