use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

/// Short enough for tests, long enough to be told apart.
const QUICK: Pace = Pace {
    gap: Duration::from_millis(20),
    first_retry: Duration::from_millis(10),
    longest_retry: Duration::from_millis(40),
    attempt: Duration::from_secs(5),
};

const HOUR: Duration = Duration::from_secs(3600);

fn document(kid: &str) -> String {
    format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"sY5Cep_rmaIA58lGgt0Jfz5eAAvfqGM-9L8xjy2TKvs"}}]}}"#
    )
}

/// A set that holds nothing but a shared secret, long enough for one.
const SHARED: &str =
    r#"{"keys":[{"kty":"oct","kid":"old","alg":"HS256","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;

fn http_response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A server that answers whatever `response` holds at the time, and counts.
struct Server {
    url: http::Uri,
    response: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(response: String) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?x=1", listener.local_addr().unwrap()).parse().unwrap();
        let server =
            Server { url, response: Arc::new(Mutex::new(response)), asked: Arc::new(AtomicUsize::new(0)) };
        let (response, asked) = (server.response.clone(), server.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..read].starts_with(b"GET /keys?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"));
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = response.lock().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        server
    }

    fn source(&self, refresh: Duration) -> KeySetSource {
        KeySetSource::JwksUrl { name: "idp".into(), url: self.url.clone(), refresh }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn answer(&self, response: String) {
        *self.response.lock() = response;
    }
}

fn empty_sets() -> Arc<ArcSwap<KeySets>> {
    let fixed = KeySet::from_secret("fixed", &[1; 32]);
    Arc::new(ArcSwap::from_pointee(KeySets(vec![Arc::new(fixed), Arc::new(KeySet::empty("idp"))])))
}

fn fixed_source() -> KeySetSource {
    KeySetSource::Secret { name: "fixed".into(), secret: vec![1; 32] }
}

fn kid(sets: &ArcSwap<KeySets>) -> Option<String> {
    let sets = sets.load();
    assert_eq!(sets.0[0].keys.len(), 1, "the other set is untouched");
    sets.0[1].keys.first().and_then(|key| key.kid.clone())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), poll).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn a_url_is_fetched_at_once_and_again_when_poked() {
    let server = Server::start(http_response("200 OK", &document("a"))).await;
    let (sets, shutdown) = (empty_sets(), CancellationToken::new());
    let refresher = spawn_with(QUICK, vec![fixed_source(), server.source(HOUR)], &sets, &shutdown);
    until("fetched", || kid(&sets).as_deref() == Some("a")).await;
    server.answer(http_response("200 OK", &document("b")));
    refresher.poke();
    until("refreshed", || kid(&sets).as_deref() == Some("b")).await;
    assert!(refresher.failures().is_empty());
    shutdown.cancel();
}

#[tokio::test]
async fn pokes_are_limited() {
    let server = Server::start(http_response("200 OK", &document("a"))).await;
    let (sets, shutdown) = (empty_sets(), CancellationToken::new());
    let patient = Pace { gap: HOUR, ..QUICK };
    let refresher = spawn_with(patient, vec![fixed_source(), server.source(HOUR)], &sets, &shutdown);
    until("fetched", || kid(&sets).is_some()).await;
    for _ in 0..1000 {
        refresher.poke();
        tokio::task::yield_now().await;
    }
    assert_eq!(server.asked(), 1);
    shutdown.cancel();
}

#[tokio::test]
async fn failures_keep_the_last_good_set_and_are_retried() {
    let server = Server::start(http_response("200 OK", &document("a"))).await;
    let (sets, shutdown) = (empty_sets(), CancellationToken::new());
    let refresher = spawn_with(QUICK, vec![fixed_source(), server.source(HOUR)], &sets, &shutdown);
    until("fetched", || kid(&sets).is_some()).await;
    let big = "x".repeat(MAX_DOCUMENT + 1);
    for (response, part) in [
        (http_response("500 Oops", &document("b")), "500"),
        (http_response("302 Found", ""), "redirects"),
        (http_response("200 OK", "{}"), "no list `keys`"),
        (http_response("200 OK", "{\"keys\":[]}"), "none of its 0 keys"),
        (http_response("200 OK", SHARED), "a shared secret"),
        (http_response("200 OK", &big), "at most"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{".to_owned(), "document"),
        ("nonsense\r\n\r\n".to_owned(), "request"),
    ] {
        server.answer(response);
        refresher.poke();
        until(part, || {
            refresher.failures().first().is_some_and(|(name, why)| name == "idp" && why.contains(part))
        })
        .await;
        assert_eq!(kid(&sets).as_deref(), Some("a"), "{part}");
    }
    server.answer(http_response("200 OK", &document("c")));
    until("recovered by itself", || kid(&sets).as_deref() == Some("c")).await;
    until("no failure", || refresher.failures().is_empty()).await;
    shutdown.cancel();
}

#[tokio::test]
async fn shutdown_ends_the_refreshing() {
    let server = Server::start(http_response("503 No", "")).await;
    let (sets, shutdown) = (empty_sets(), CancellationToken::new());
    let refresher = spawn_with(QUICK, vec![fixed_source(), server.source(HOUR)], &sets, &shutdown);
    until("asked", || server.asked() > 0).await;
    shutdown.cancel();
    // The tasks hold the only other handles on the sets.
    until("ended", || Arc::strong_count(&sets) == 1).await;
    drop(refresher);
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, document("a")).unwrap();
    let (sets, shutdown) = (empty_sets(), CancellationToken::new());
    let refresh = Duration::from_millis(10);
    let source = KeySetSource::JwksFile { name: "idp".into(), path: path.clone(), refresh };
    let refresher = spawn_with(QUICK, vec![fixed_source(), source], &sets, &shutdown);
    until("read", || kid(&sets).as_deref() == Some("a")).await;
    std::fs::write(&path, document("b")).unwrap();
    until("read again", || kid(&sets).as_deref() == Some("b")).await;
    std::fs::remove_file(&path).unwrap();
    until("missed", || refresher.failures().first().is_some_and(|(_, why)| why.contains("jwks.json"))).await;
    std::fs::write(&path, "x".repeat(MAX_DOCUMENT + 1)).unwrap();
    until("too large", || refresher.failures().first().is_some_and(|(_, why)| why.contains("larger"))).await;
    assert_eq!(kid(&sets).as_deref(), Some("b"));
    shutdown.cancel();
}

#[tokio::test]
async fn urls_that_cannot_be_fetched_say_why() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (url, part) in [
        (format!("http://{unused}/"), "cannot connect"),
        (format!("https://{unused}/"), "cannot connect"),
        ("ftp://a/".to_owned(), "http:// or https://"),
        ("/keys".to_owned(), "no host"),
    ] {
        let error = Fetcher::new(url.parse().unwrap()).fetch(10).await.unwrap_err();
        assert!(error.contains(part), "{url}: {error}");
    }
    // Plain HTTP where TLS is due.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://{}/", listener.local_addr().unwrap());
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let fetcher = Fetcher::new(plain.parse().unwrap());
    let (result, ()) = tokio::join!(fetcher.fetch(10), answer);
    assert!(result.unwrap_err().starts_with("TLS"));
}

#[test]
fn retries_slow_down_to_a_limit() {
    let task = Task {
        pace: PACE,
        index: 0,
        slot: 0,
        origin: Origin::File(PathBuf::new()),
        refresh: HOUR,
        sets: empty_sets(),
        refresher: Refresher::default(),
        last: None,
    };
    let seconds: Vec<u64> = [0, 1, 2, 5, 6, 40].iter().map(|n| task.retry_after(*n).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
    let eager = Task { refresh: Duration::from_secs(3), ..task };
    assert_eq!(eager.retry_after(5), Duration::from_secs(3));
}
