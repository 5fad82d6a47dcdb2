//! Other protocols: WebSocket through Weir, their ends, and what must not pass.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Origin, Setup, Weir, Wire, until, within};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: chat\r\n\r\n";

/// Agrees to `chat` and echoes lines.
async fn echoes() -> Origin {
    Origin::start(|_, mut wire| async move {
        let head = wire.head().await.unwrap();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: chat\r\n"), "{head}");
        // The first words come along with the head.
        wire.say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello\n")
            .await;
        while let Some(line) = wire.through("\n").await {
            if !wire.try_say(line).await {
                return;
            }
        }
        wire.try_say("bye\n").await;
    })
    .await
}

async fn chat(weir: &Weir) -> Wire {
    let mut client = weir.client().await;
    client.say(UPGRADE).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: chat\r\n"), "{head}");
    assert_eq!(client.through("\n").await.unwrap(), "hello\n");
    client
}

#[tokio::test]
async fn bytes_pass_both_ways_until_the_client_ends() {
    within(async {
        let origin = echoes().await;
        let weir = Weir::before(&origin).await;
        let mut client = chat(&weir).await;
        for n in 0..100 {
            client.say(format!("line {n}\n")).await;
            assert_eq!(client.through("\n").await.unwrap(), format!("line {n}\n"));
        }
        assert_eq!(weir.upstream.connections(), (1, 0));
        assert_eq!(weir.tunnels.len(), 1);
        drop(client);
        until("both are gone", || weir.tunnels.is_empty() && weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn a_half_closed_client_hears_the_last_words() {
    within(async {
        let origin = echoes().await;
        let weir = Weir::before(&origin).await;
        let mut client = chat(&weir).await;
        client.finish().await;
        assert_eq!(client.through("\n").await.unwrap(), "bye\n");
        assert!(client.ended().await);
        until("it is gone", || weir.tunnels.is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn websocket() {
    within(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_close() || socket.send(message).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let weir = Setup::to(addr).start().await;
        let (mut socket, response) =
            tokio_tungstenite::connect_async(format!("ws://{}/echo", weir.addr)).await.unwrap();
        assert_eq!(response.status(), 101);
        let large = Message::binary(vec![7; 1 << 20]);
        for message in [Message::text("hello"), large, Message::text("again")] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        drop(socket);
        until("it is gone", || weir.tunnels.is_empty() && weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_refused_is_an_answer_like_any_other() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let reply = client.ask(UPGRADE).await;
        assert_eq!(reply.status(), 200);
        assert!(reply.text().contains("upgrade: chat\r\n"), "{}", reply.text());
        assert_eq!(client.ask(UPGRADE).await.status(), 200);
        assert_eq!(origin.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn http2_is_not_smuggled_in_by_an_upgrade() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n";
        let reply = weir.client().await.ask(request).await;
        assert_eq!(reply.status(), 200);
        assert!(!reply.text().contains("h2c") && !reply.text().contains("http2-settings"), "{}", reply.text());
    })
    .await;
}

#[tokio::test]
async fn upgraded_connections_count() {
    within(async {
        let origin = echoes().await;
        let mut setup = Setup::to(origin.addr);
        setup.limits.max_connections = 1;
        let weir = setup.start().await;
        let first = chat(&weir).await;
        let mut second = weir.client().await;
        second.say(UPGRADE).await;
        assert!(tokio::time::timeout(Duration::from_millis(200), second.head()).await.is_err());
        drop(first);
        assert!(second.head().await.unwrap().starts_with("HTTP/1.1 101"));
    })
    .await;
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_end() {
    within(async {
        let origin = echoes().await;
        let weir = Weir::before(&origin).await;
        let mut client = chat(&weir).await;
        assert_eq!(weir.tunnels.close(Duration::from_millis(100)).await, 1);
        assert!(client.ended().await);
        assert!(weir.tunnels.is_empty());
        until("the upstream's, too", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}
