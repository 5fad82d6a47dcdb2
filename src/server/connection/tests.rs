mod parked;

use std::sync::Mutex;

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::body::Body;
use crate::interim::Interim;
use crate::server::Answering;
use crate::server::tests::fixture::{hold, limits, pair};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n";

/// Answers at once, and keeps the content of the last request, which nobody reads.
#[derive(Default)]
struct Keeps(Mutex<Option<Body>>);

impl Handler for Keeps {
    fn handle(&self, request: Request<Body>, _: Peer, _: &Interim) -> Answering {
        *self.0.lock().unwrap() = Some(request.into_body());
        Answering::Now(Response::new(Body::full("hello")))
    }
}

/// How hyper's part of a connection ended.
type Ended = End<Result<(), hyper::Error>>;

/// A client, and what is needed to serve it.
struct Bench {
    client: TcpStream,
    server: TcpStream,
    handler: Arc<Keeps>,
    limits: ServerLimits,
    orders: watch::Sender<Phase>,
}

impl Bench {
    async fn new() -> Bench {
        let (client, server, _) = pair().await;
        let orders = watch::channel(Phase::Serving).0;
        Bench { client, server, handler: Arc::default(), limits: limits(), orders }
    }

    /// Serves until hyper has no more to say, which is not the socket's end where it says `Parked`.
    fn first_drive(self) -> (TcpStream, JoinHandle<Ended>, Arc<Keeps>) {
        let activity = Activity::new(self.limits.header_timeout, self.limits.idle_timeout);
        let line = Arc::<Line>::default();
        let mut wire = Wire::new(self.server.into(), activity.clone(), line.clone());
        let (handler, limits) = (self.handler.clone(), self.limits);
        let orders = self.orders;
        let driving = tokio::spawn(async move {
            let service = serving(self.handler, activity.clone(), line);
            assert_eq!(wire.sniff().await.unwrap(), Some(Protocol::Http1));
            let connection = http1_builder(&limits).serve_connection(TokioIo::new(wire), service);
            let mut connection = Box::new(connection.with_upgrades());
            let ended = drive(Pin::new(&mut *connection), &activity, &mut orders.subscribe()).await;
            if matches!(ended, End::Parked) {
                assert!(into_wire(connection).is_some());
            }
            ended
        });
        (self.client, driving, handler)
    }

    /// Serves to the end.
    fn all(self) -> (TcpStream, JoinHandle<()>, watch::Sender<Phase>) {
        let phase = self.orders.subscribe();
        let addr = self.server.peer_addr().unwrap();
        let peer = Peer { addr, tls: false };
        let served = serve(self.server, peer, None, self.handler, Arc::new(self.limits), hold(), phase);
        (self.client, tokio::spawn(served), self.orders)
    }
}

fn serving(handler: Arc<Keeps>, activity: Arc<Activity>, line: Arc<Line>) -> Serving<Keeps> {
    let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), tls: false };
    let patience = Duration::from_secs(1);
    Serving::new(Arc::new(Exchanges { handler, peer, hold: hold(), activity, line, patience }), None)
}

/// The head of one answer.
async fn answer(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        assert!(client.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

/// The clock is the test's: it goes on where nobody has anything to do.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn who_rests_is_parked() {
    let (mut client, driving, _) = Bench::new().await.first_drive();
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    let began = Instant::now();
    assert!(matches!(driving.await.unwrap(), End::Parked));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_has_something_under_way_is_not_parked() {
    for begun in ["\r\n", "G", "GET /x HTTP/1.1\r\nhost: a\r\n"] {
        let (mut client, driving, _) = Bench::new().await.first_drive();
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        client.write_all(begun.as_bytes()).await.unwrap();
        assert!(matches!(driving.await.unwrap(), End::TimedOut), "a part of a head, {begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_comes_after_the_answer_belongs_to_hyper() {
    for request in [
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n1234".to_owned(),
        "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1234\r\n".to_owned(),
        // All there, and more than hyper reads before somebody takes it.
        format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n{}", "x".repeat(30_000)),
    ] {
        let (mut client, driving, _handler) = Bench::new().await.first_drive();
        client.write_all(request.as_bytes()).await.unwrap();
        answer(&mut client).await;
        assert!(matches!(driving.await.unwrap(), End::TimedOut), "the request is not over");
    }
}

#[tokio::test(start_paused = true)]
async fn who_still_sends_keeps_the_connection() {
    let bench = Bench::new().await;
    let handler = bench.handler.clone();
    let (mut client, _served, _orders) = bench.all();
    client.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n1234").await.unwrap();
    answer(&mut client).await;
    pass(20).await;
    client.write_all(&[b"5678", GET].concat()).await.unwrap();
    let mut content = handler.0.lock().unwrap().take().unwrap();
    for part in ["1234", "5678"] {
        assert_eq!(content.frame().await.unwrap().unwrap().into_data().unwrap(), part);
    }
    let head = answer(&mut client).await;
    assert!(!head.contains("connection: close"), "{head}");
}

/// Content that the handler takes as it comes, after it has answered.
async fn next_of(content: &mut Body) -> Option<bytes::Bytes> {
    content.frame().await.map(|frame| frame.unwrap().into_data().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn who_idles_is_closed_in_time_whoever_served_it() {
    // The second is hyper's, is parked, and idles from its answer, not from when it was parked.
    for more in ["", "te: trailers\r\nconnection: keep-alive, te\r\n"] {
        for (head, idle) in [(30, 10), (10, 30), (10, 10)] {
            let mut bench = Bench::new().await;
            bench.limits.header_timeout = Duration::from_secs(head);
            bench.limits.idle_timeout = Duration::from_secs(idle);
            let (mut client, served, _orders) = bench.all();
            client.write_all(format!("GET /x HTTP/1.1\r\nhost: a\r\n{more}\r\n").as_bytes()).await.unwrap();
            answer(&mut client).await;
            let began = Instant::now();
            served.await.unwrap();
            let took = began.elapsed();
            let idle = Duration::from_secs(idle);
            assert!(
                (idle - Duration::from_secs(1)..=idle + Duration::from_secs(1)).contains(&took),
                "{more} {took:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_counts_from_accept_whenever_it_was_that_speaking_began() {
    let Bench { client: _client, server, handler, limits, orders } = Bench::new().await;
    let activity = Activity::new(limits.header_timeout, limits.idle_timeout);
    let line = Arc::<Line>::default();
    // A handshake, say.
    pass(29).await;
    let peer = Peer { addr: server.peer_addr().unwrap(), tls: false };
    let wire = Wire::new(server.into(), activity.clone(), line.clone());
    let patience = limits.header_timeout;
    let exchanges = Exchanges { handler, peer, hold: hold(), activity, line, patience };
    let (began, mut phase) = (Instant::now(), orders.subscribe());
    let ended = speak_http1(wire, Arc::new(exchanges), &limits, &mut phase).await;
    assert!(matches!(ended, End::TimedOut));
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn content_after_its_answer_is_no_head() {
    for (head, last) in [
        ("content-length: 13", "a"),
        ("transfer-encoding: chunked", "1\r\na\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked", "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"),
    ] {
        let bench = Bench::new().await;
        let handler = bench.handler.clone();
        let (mut client, served, _orders) = bench.all();
        let head = format!("POST /x HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        answer(&mut client).await;
        let mut content = handler.0.lock().unwrap().take().unwrap();
        // Far longer than a head may take, and than a connection may idle.
        let piece: &[u8] = if head.contains("chunked") { b"3\r\nabc\r\n" } else { b"abc" };
        for _ in 0..4 {
            pass(25).await;
            client.write_all(piece).await.unwrap();
            assert_eq!(next_of(&mut content).await.unwrap(), "abc", "{head}");
        }
        pass(25).await;
        client.write_all(last.as_bytes()).await.unwrap();
        assert_eq!(next_of(&mut content).await.unwrap(), "a");
        // From here on it idles. hyper may not have told the content's end: not before the next request.
        pass(70).await;
        assert!(!served.is_finished());
        client.write_all(GET).await.unwrap();
        let next = answer(&mut client).await;
        assert!(!next.contains("connection: close"), "{next}");
        assert!(content.collect().await.unwrap().to_bytes().is_empty(), "nothing broke off: {head}");
    }
}

/// A client 40 seconds after its answer, with the content of so many bytes that it still sends: two have come.
async fn outlasting(length: usize) -> (TcpStream, JoinHandle<()>, watch::Sender<Phase>, Body) {
    let bench = Bench::new().await;
    let handler = bench.handler.clone();
    let (mut client, served, orders) = bench.all();
    let head = format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n12");
    client.write_all(head.as_bytes()).await.unwrap();
    answer(&mut client).await;
    let mut content = handler.0.lock().unwrap().take().unwrap();
    assert_eq!(next_of(&mut content).await.unwrap(), "12");
    pass(40).await;
    (client, served, orders, content)
}

#[tokio::test(start_paused = true)]
async fn content_after_its_answer_that_stalls_has_the_time_of_the_idle() {
    let (mut client, served, _orders, mut content) = outlasting(8).await;
    client.write_all(b"34").await.unwrap();
    assert_eq!(next_of(&mut content).await.unwrap(), "34");
    let began = Instant::now();
    served.await.unwrap();
    let took = began.elapsed().as_secs();
    assert!((74..77).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_head_behind_late_content_is_a_head() {
    let (mut client, served, _orders, mut content) = outlasting(4).await;
    client.write_all(b"34GET /").await.unwrap();
    let began = Instant::now();
    assert_eq!(next_of(&mut content).await.unwrap(), "34");
    served.await.unwrap();
    let took = began.elapsed().as_secs();
    assert!((29..32).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn content_that_hyper_has_and_nobody_has_taken_is_not_lost() {
    let (mut client, driving, handler) = Bench::new().await.first_drive();
    client.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n1234").await.unwrap();
    answer(&mut client).await;
    assert!(matches!(driving.await.unwrap(), End::Parked));
    let content = handler.0.lock().unwrap().take().unwrap();
    assert_eq!(content.collect().await.unwrap().to_bytes(), "1234");
}

#[tokio::test(start_paused = true)]
async fn the_parked_go_on_where_they_were() {
    let (mut client, served, _orders) = Bench::new().await.all();
    for piece in [1, 7, 1000] {
        client.write_all(GET).await.unwrap();
        let head = answer(&mut client).await;
        assert!(!head.contains("connection: close"), "{head}");
        pass(20).await;
        for piece in GET.chunks(piece) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        answer(&mut client).await;
        // One and a half.
        client.write_all(&[GET, b"GET /"].concat()).await.unwrap();
        answer(&mut client).await;
        pass(20).await;
        client.write_all(b"x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        answer(&mut client).await;
        pass(70).await;
        assert!(!served.is_finished());
    }
    client.write_all(b"GET /x HTTP/1.1\nhost: a\r\n\r\n").await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "framing is looked at as before: {text}");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_parked_have_the_time_that_all_have() {
    let (mut client, served, _orders) = Bench::new().await.all();
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    let began = Instant::now();
    pass(70).await;
    assert!(!served.is_finished());
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let took = began.elapsed();
    assert!((74..77).contains(&took.as_secs()), "{took:?}");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_after_parking_begins_a_head() {
    let (mut client, served, _orders) = Bench::new().await.all();
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    pass(60).await;
    client.write_all(b"G").await.unwrap();
    pass(25).await;
    assert!(!served.is_finished(), "not idle any more");
    served.await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_parked_at_once() {
    for phase in [Phase::Draining, Phase::Cut] {
        let (mut client, served, orders) = Bench::new().await.all();
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        pass(20).await;
        let began = Instant::now();
        orders.send_replace(phase);
        served.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "a close, no reset");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_client_that_leaves_is_gone() {
    let (mut client, served, _orders) = Bench::new().await.all();
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    pass(20).await;
    let began = Instant::now();
    drop(client);
    served.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_named_another_protocol_stays_and_is_not_parked() {
    let upgrade = b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let (mut client, _serving, _orders) = Bench::new().await.all();
    client.write_all(upgrade).await.unwrap();
    answer(&mut client).await;
    pass(40).await;
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn empty_lines_behind_a_request_do_not_end_a_parked_connection() {
    let (mut client, _serving, _orders) = Bench::new().await.all();
    client.write_all(&[GET, b"\r\n\r\n"].concat()).await.unwrap();
    answer(&mut client).await;
    pass(40).await;
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
}
