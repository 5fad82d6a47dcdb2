//! What may become of a connection that was parked: another protocol, TLS, bytes at the worst moment, its end.

use std::path::PathBuf;

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::tls::{Certificates, TlsFiles};
use crate::time::Clock;

/// Answers at once; who asks for another protocol gets its bytes back.
struct Echoes;

impl Handler for Echoes {
    fn handle(&self, mut request: Request<Body>, _: Peer, _: &Interim) -> Answering {
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return Answering::Now(Response::new(Body::full("hello")));
        };
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut piece).await {
                stream.write_all(&piece[..n]).await.unwrap();
            }
        });
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
            response.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        Answering::Now(response)
    }
}

/// A client of a connection that is parked by now, and the end of its serving.
async fn parked() -> (TcpStream, JoinHandle<()>, watch::Sender<Phase>) {
    let (mut client, served, orders) = Bench::new().await.all();
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    pass(20).await;
    (client, served, orders)
}

/// All that is said until the connection ends.
async fn rest(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_parked_may_ask_for_another_protocol() {
    let Bench { mut client, server, limits, orders, .. } = Bench::new().await;
    let peer = Peer { addr: server.peer_addr().unwrap(), tls: false };
    let phase = orders.subscribe();
    let served = serve(server, peer, None, Arc::new(Echoes), Arc::new(limits), hold(), phase);
    let served = tokio::spawn(served);
    client.write_all(GET).await.unwrap();
    answer(&mut client).await;
    pass(20).await;
    let ask = b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst words";
    client.write_all(ask).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"first words") {
        assert!(client.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
    assert!(text.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&text));
    served.await.unwrap();
    // Nobody but the two ends has a say any more; and what is sent is no request.
    for words in [&b"GET / HTTP/1.1\n\n"[..], b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        pass(1000).await;
        client.write_all(words).await.unwrap();
        let mut back = vec![0; words.len()];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, words);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_while_it_is_parked_are_a_request_like_any_other() {
    // The first look comes a second after the beginning, and what rests is parked a look later at the most.
    for when in (900..=1100).step_by(5).chain((1990..=2010).step_by(1)).chain((2900..=3100).step_by(10)) {
        for halves in [false, true] {
            let (mut client, _served, _orders) = Bench::new().await.all();
            client.write_all(GET).await.unwrap();
            answer(&mut client).await;
            // By hand, so that nothing of it is skipped.
            for _ in 0..when {
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            let (one, other) = GET.split_at(if halves { 9 } else { GET.len() });
            client.write_all(one).await.unwrap();
            if halves {
                tokio::task::yield_now().await;
                client.write_all(other).await.unwrap();
            }
            let head = answer(&mut client).await;
            assert!(!head.contains("connection: close"), "{when} ms: {head}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_parked_may_ask_for_several_things_at_once() {
    let (mut client, served, _orders) = parked().await;
    client
        .write_all(&[GET, GET, b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat())
        .await
        .unwrap();
    let text = rest(&mut client).await;
    assert_eq!(text.matches("hello").count(), 3, "{text}");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_parked_end_when_they_say_so() {
    for last in
        ["GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "GET /x HTTP/1.0\r\nhost: a\r\n\r\n"]
    {
        let (mut client, served, _orders) = parked().await;
        let began = tokio::time::Instant::now();
        client.write_all(last.as_bytes()).await.unwrap();
        let text = rest(&mut client).await;
        assert!(text.starts_with("HTTP/1.") && text.ends_with("hello"), "{text}");
        served.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_speaks_one_protocol_parked_or_not() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut said = Vec::new();
    for rests in [0, 20] {
        let (mut client, served, _orders) = Bench::new().await.all();
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        pass(rests).await;
        client.write_all(PREFACE).await.unwrap();
        said.push(rest(&mut client).await);
        served.await.unwrap();
    }
    assert!(
        said[0].is_empty() || said[0].starts_with("HTTP/1.1 4") || said[0].starts_with("HTTP/1.1 505"),
        "{said:?}"
    );
    assert!(!said[0].contains("hello"), "{said:?}");
    assert_eq!(said[0].lines().next(), said[1].lines().next());
}

#[tokio::test(start_paused = true)]
async fn the_parked_count_towards_the_limit() {
    let slots = Arc::new(Semaphore::new(1));
    let hold = Hold(Arc::new(slots.clone().try_acquire_owned().unwrap()));
    let Bench { mut client, server, limits, orders, handler } = Bench::new().await;
    let peer = Peer { addr: server.peer_addr().unwrap(), tls: false };
    let served = serve(server, peer, None, handler, Arc::new(limits), hold, orders.subscribe());
    let served = tokio::spawn(served);
    for _ in 0..3 {
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        pass(20).await;
        assert_eq!(slots.available_permits(), 0);
    }
    drop(client);
    served.await.unwrap();
    assert_eq!(slots.available_permits(), 1);
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/net/tls").join(name)
}

fn acceptor(shutdown: &CancellationToken) -> Acceptor {
    let files = TlsFiles { certificate: file("leaf.pem"), key: file("leaf.key") };
    Acceptor::new(Certificates::open(files, Clock::system(), shutdown.clone()).unwrap()).unwrap()
}

/// The client's side of a handshake.
async fn secured(client: TcpStream) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(file("ca.pem")).unwrap() {
        roots.add(authority.unwrap()).unwrap();
    }
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, client).await.unwrap()
}

async fn secure_answer(client: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        assert!(client.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_rests_under_tls_is_parked_too() {
    let shutdown = CancellationToken::new();
    let Bench { client, server, limits, orders, handler } = Bench::new().await;
    let activity = Activity::new(limits.header_timeout, limits.idle_timeout);
    let line = Arc::<Line>::default();
    let opened = open(server, Some(acceptor(&shutdown)), &activity, &line);
    let (opened, mut client) = tokio::join!(opened, secured(client));
    let (wire, protocol) = opened.unwrap().unwrap();
    assert_eq!(protocol, Protocol::Http1);
    let service = serving(handler, activity.clone(), line);
    let mut connection =
        Box::new(http1_builder(&limits).serve_connection(TokioIo::new(wire), service).with_upgrades());
    let mut phase = orders.subscribe();
    let driving = async {
        let ended = drive(Pin::new(&mut *connection), &activity, &mut phase).await;
        assert!(matches!(ended, End::Parked));
    };
    let asking = async {
        client.write_all(GET).await.unwrap();
        secure_answer(&mut client).await;
    };
    tokio::join!(driving, asking);
    assert!(into_wire(connection).is_some());
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn under_tls_the_parked_go_on_and_are_told_of_their_end() {
    let shutdown = CancellationToken::new();
    let Bench { client, server, limits, orders, handler } = Bench::new().await;
    let peer = Peer { addr: server.peer_addr().unwrap(), tls: true };
    let tls = Some(acceptor(&shutdown));
    let served = serve(server, peer, tls, handler, Arc::new(limits), hold(), orders.subscribe());
    let served = tokio::spawn(served);
    let mut client = secured(client).await;
    for piece in [1, 7, 1000] {
        for piece in GET.chunks(piece) {
            client.write_all(piece).await.unwrap();
            client.flush().await.unwrap();
        }
        let head = secure_answer(&mut client).await;
        assert!(!head.contains("connection: close"), "{head}");
        pass(20).await;
        // Not a byte of HTTP: it wakes who is parked, and nothing more comes of it.
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.flush().await.unwrap();
        pass(20).await;
        assert!(!served.is_finished());
    }
    let began = tokio::time::Instant::now();
    let end = client.read(&mut [0]).await;
    assert_eq!(end.unwrap(), 0, "an end that is told");
    assert!(
        (30..40).contains(&began.elapsed().as_secs()),
        "{:?}: words of TLS are no requests",
        began.elapsed()
    );
    served.await.unwrap();
    shutdown.cancel();
}
