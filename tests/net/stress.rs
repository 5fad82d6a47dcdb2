//! Many clients, an upstream that closes connections when it likes: no read fails, no mutation happens twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::support::{Origin, Weir, until, within};

/// xorshift: the same every time.
fn next(state: &AtomicU64) -> u64 {
    let step = |mut x: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    };
    let mut new = 0;
    let _ = state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| {
        new = step(x);
        Some(new)
    });
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_connections_lose_no_read_and_repeat_no_mutation() {
    within(async {
        let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let log = seen.clone();
        let chance = Arc::new(AtomicU64::new(0x2545_F491_4F6C_DD1D));
        let origin = Origin::start(move |_, mut wire| {
            let (log, chance) = (log.clone(), chance.clone());
            async move {
                let mut first = true;
                while let Some(request) = wire.message().await {
                    let line = request.head.lines().next().unwrap_or_default().to_owned();
                    *log.lock().entry(line).or_default() += 1;
                    // Without an answer only on a connection that has given one: that is what a closing
                    // keep-alive looks like.
                    if !first && next(&chance).is_multiple_of(8) {
                        return;
                    }
                    first = false;
                    if !wire.try_say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
                        || next(&chance).is_multiple_of(8)
                    {
                        return;
                    }
                }
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut clients = Vec::new();
        for c in 0..16 {
            let mut wire = weir.client().await;
            clients.push(tokio::spawn(async move {
                let mut answered = 0;
                for n in 0..150 {
                    let get = format!("GET /{c}/{n} HTTP/1.1\r\nhost: a\r\n\r\n");
                    assert_eq!(wire.ask(&get).await.status(), 200, "a read failed");
                    let post = format!("POST /{c}/{n} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi");
                    let reply = wire.ask(&post).await;
                    match reply.status() {
                        200 => answered += 1,
                        502 => assert_eq!(reply.text(), "upstream-closed"),
                        other => panic!("{other}"),
                    }
                }
                answered
            }));
        }
        let mut answered = 0;
        for client in clients {
            answered += client.await.unwrap();
        }
        assert!(answered > 1000, "most mutations succeed: {answered}");
        for (line, times) in seen.lock().iter() {
            let most = if line.starts_with("POST") { 1 } else { 2 };
            assert!(*times <= most, "{line} was seen {times} times");
        }
        assert!(origin.accepted() < 4000, "connections are reused: {}", origin.accepted());
        until("nothing is under way", || {
            let (open, idle) = weir.upstream.connections();
            open == idle
        })
        .await;
    })
    .await;
}
