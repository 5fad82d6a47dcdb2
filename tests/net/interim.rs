//! Interim responses: passed on while their request is under way, and never between two bytes of a response.

use tokio::sync::oneshot;

use crate::support::{Origin, Weir, Wire, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

/// Answers each request with hints, then 200 with the request line as content.
async fn hinting() -> Origin {
    Origin::start(|_, mut wire| async move {
        while let Some(message) = wire.message().await {
            let line = message.head.lines().next().unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            if !wire.try_say(HINTS.to_owned() + &answer).await {
                return;
            }
        }
    })
    .await
}

async fn hinted(client: &mut Wire) {
    let hints = client.head().await.expect("an interim response");
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n"), "{hints}");
    assert!(hints.contains("via: 1.1 weir\r\n"), "{hints}");
}

#[tokio::test]
async fn they_arrive_before_the_response_is_there() {
    within(async {
        let (finish, finished) = oneshot::channel::<()>();
        let finished = std::sync::Mutex::new(Some(finished));
        let origin = Origin::start(move |_, mut wire| {
            let finished = finished.lock().unwrap().take();
            async move {
                wire.message().await.unwrap();
                let more =
                    "HTTP/1.1 102 Processing\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 7\r\n\r\n";
                wire.say(format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{more}")).await;
                finished.unwrap().await.unwrap();
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                wire.ended().await;
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say(GET).await;
        hinted(&mut client).await;
        assert_eq!(client.head().await.unwrap(), "HTTP/1.1 102 Processing\r\nvia: 1.1 weir\r\n\r\n");
        finish.send(()).unwrap();
        assert_eq!(client.message().await.unwrap().text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn one_after_the_other_and_pipelined_each_comes_before_its_own_response() {
    within(async {
        let origin = hinting().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for _ in 0..3 {
            client.say(GET).await;
            hinted(&mut client).await;
            assert_eq!(client.message().await.unwrap().text(), "GET / HTTP/1.1");
        }
        let many: String = (0..40).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
        client.say(many).await;
        for n in 0..40 {
            hinted(&mut client).await;
            assert_eq!(client.message().await.unwrap().text(), format!("GET /{n} HTTP/1.1"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_of_http_1_0_knows_none() {
    within(async {
        let origin = hinting().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
        let (answer, _) = client.rest().await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(" 200 OK\r\n") && !answer.contains("103"), "{answer}");
    })
    .await;
}

/// A client that does not read makes the sockets between here and there fill up, with responses that are larger than
/// they can hold. Whatever is passed on then, every response is whole and in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_gets_every_response_whole() {
    within(async {
        const REQUESTS: usize = 12;
        const SIZE: usize = 3 << 20;
        let origin = Origin::start(|_, mut wire| async move {
            while let Some(message) = wire.message().await {
                let mark = message.head.as_bytes()[5];
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
                let mut answer = (HINTS.to_owned() + &head).into_bytes();
                answer.resize(answer.len() + SIZE, mark);
                if !wire.try_say(answer).await {
                    return;
                }
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let mark = |n: usize| char::from(b'a' + u8::try_from(n).unwrap());
        let many: String =
            (0..REQUESTS).map(|n| format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", mark(n))).collect();
        client.say(many).await;
        let mut hints = 0;
        for n in 0..REQUESTS {
            let mut head = client.head().await.unwrap();
            while head.starts_with("HTTP/1.1 103") {
                hints += 1;
                head = client.head().await.unwrap();
            }
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let body = client.exactly(SIZE).await.unwrap();
            assert!(body.iter().all(|&b| char::from(b) == mark(n)), "response {n} is whole");
        }
        println!("{hints} interim responses among {REQUESTS} responses");
    })
    .await;
}

/// Weir gives up and answers by itself; what the backend says after that is nobody's.
#[tokio::test]
async fn what_comes_after_the_response_is_dropped() {
    within(async {
        let (answered, after) = oneshot::channel::<()>();
        let (said, hints) = oneshot::channel::<()>();
        let late = std::sync::Mutex::new(Some((after, said)));
        let origin = Origin::start(move |_, mut wire| {
            let late = late.lock().unwrap().take();
            async move {
                wire.message().await.unwrap();
                match late {
                    Some((after, said)) => {
                        after.await.unwrap();
                        wire.try_say(HINTS).await;
                        said.send(()).unwrap();
                    }
                    None => wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await,
                }
                wire.ended().await;
            }
        })
        .await;
        let mut setup = crate::support::Setup::to(origin.addr);
        setup.upstream.first_byte_timeout = std::time::Duration::from_millis(100);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        assert_eq!(client.ask(GET).await.status(), 504);
        answered.send(()).unwrap();
        hints.await.unwrap();
        assert_eq!(client.ask(GET).await.text(), "ok");
    })
    .await;
}
