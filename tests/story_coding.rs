//! Codings: one stored response for clients of every coding, and nobody gets bytes that they did not ask for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write as _};

use support::{Answer, Ask, DEADLINE, Origin, RawOrigin, Redis, Reply, Weir, WeirConfig, eventually, within};
use tokio::io::AsyncWriteExt as _;

/// Makes an answer.
type Make = fn() -> Reply;

const LIST: &str = "[[route]]\nname = \"list\"\nmatch = \"GET /list\"\nttl = \"5m\"\ncompress = \"gzip\"";

/// Some 30 KB of JSON.
fn list() -> String {
    let mut text = String::from("{\"session\":\"s1\",\"items\":[");
    for n in 0..1000 {
        let _ = write!(text, "{}{{\"id\":{n},\"price\":{}}}", if n == 0 { "" } else { "," }, n * 7919 % 1000);
    }
    text + "]}"
}

/// The list, as a backend that knows nothing of codings answers.
fn reply() -> Reply {
    Reply::text(list())
        .header("content-type", "application/json")
        .header("etag", "\"v1\"")
        .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        .header("accept-ranges", "bytes")
}

fn gunzip_bytes(body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut content).expect("gzip");
    content
}

fn gunzip(body: &[u8]) -> String {
    String::from_utf8(gunzip_bytes(body)).expect("text")
}

fn accepting(ask: Ask, codings: &str) -> Ask {
    ask.header("accept-encoding", codings)
}

#[track_caller]
fn assert_coded(answer: &Answer) {
    assert_eq!(answer.header("content-encoding"), Some("gzip"), "{:?}", answer.headers);
    assert_eq!(answer.header("etag"), Some("W/\"v1\""), "other bytes, another tag");
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert_eq!(answer.header("accept-ranges"), None);
    assert_eq!(gunzip(&answer.body), list());
    assert!(answer.body.len() < list().len() / 3, "{} bytes", answer.body.len());
}

#[track_caller]
fn assert_plain(answer: &Answer) {
    assert_eq!(answer.header("content-encoding"), None, "{:?}", answer.headers);
    assert_eq!(answer.header("etag"), Some("\"v1\""));
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert_eq!(answer.header("content-length"), Some(&*list().len().to_string()));
    assert_eq!(answer.text(), list());
}

#[tokio::test]
async fn clients_of_every_coding_share_one_response() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    let first = accepting(weir.get("/list"), "gzip, deflate, br").await;
    assert_coded(first.assert_stored());
    for codings in ["gzip", "br, gzip;q=0.5", "zstd, br, gzip", "*", "gzip, identity;q=0"] {
        let answer = accepting(weir.get("/list"), codings).await;
        assert_coded(answer.assert_hit());
        assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()), "{codings}");
    }
    for codings in ["br", "zstd, br", "identity", "gzip;q=0, *", ""] {
        assert_plain(accepting(weir.get("/list"), codings).await.assert_hit());
    }
    assert_plain(weir.get("/list").await.assert_hit());
    assert_coded(accepting(weir.get("/list").http2(), "gzip").await.assert_hit());
    assert_eq!(origin.count("/list"), 1);
    assert_eq!(origin.last("/list").header("accept-encoding"), None, "asked for as it is");
}

#[tokio::test]
async fn whoever_comes_first_without_a_coding_gets_it_plain() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    assert_plain(weir.get("/list").await.assert_stored());
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_hit());
    assert_eq!(origin.count("/list"), 1);
}

#[tokio::test]
async fn those_who_wait_get_it_their_own_way() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    let hold = origin.hold_next("GET /list", 1);
    let leader = accepting(weir.get("/list"), "gzip").spawn();
    hold.caught(1).await;
    let (coded, plain) = (accepting(weir.get("/list"), "gzip, br").spawn(), weir.get("/list").spawn());
    weir.coalesces(2).await;
    hold.release();
    assert_coded(&leader.await.unwrap());
    assert_coded(&coded.await.unwrap());
    assert_plain(&plain.await.unwrap());
    assert_eq!(origin.count("/list"), 1);
}

#[tokio::test]
async fn it_survives_redis_in_every_coding() {
    for coding in ["gzip", "br", "zstd"] {
        let (origin, redis) = (Origin::start().await, Redis::start().await);
        origin.always("GET /list", reply);
        let text = format!("[cache]\nmemory = \"0\"\n{}", LIST.replace("\"gzip\"", &format!("\"{coding}\"")));
        let weir = Weir::with_redis(&origin, &redis, &text).await;
        accepting(weir.get("/list"), coding).await.assert_stored();
        redis.filled("list", 1).await;
        let coded = accepting(weir.get("/list"), coding).await;
        assert_eq!(coded.assert_hit().header("content-encoding"), Some(coding));
        let mut text = String::new();
        let decoder: Box<dyn Read + '_> = match coding {
            "gzip" => Box::new(flate2::read::GzDecoder::new(&coded.body[..])),
            "br" => Box::new(brotli::Decompressor::new(&coded.body[..], 4096)),
            _ => Box::new(zstd::Decoder::new(&coded.body[..]).unwrap()),
        };
        { decoder }.read_to_string(&mut text).unwrap();
        assert_eq!(text, list(), "{coding}");
        assert_plain(weir.get("/list").await.assert_hit());
        let part = weir.get("/list").header("range", "bytes=20000-20009").await;
        assert_eq!(part.assert_code(206).assert_hit().text(), list()[20_000..20_010], "{coding}");
        assert_eq!(origin.count("/list"), 1, "{coding}");
    }
}

#[tokio::test]
async fn head_says_what_get_would() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    let coded = accepting(weir.get("/list"), "gzip").await;
    let head = accepting(weir.request("HEAD", "/list"), "gzip").await;
    assert_eq!(head.assert_hit().header("content-length"), Some(&*coded.body.len().to_string()));
    assert_eq!((head.header("content-encoding"), head.header("etag")), (Some("gzip"), Some("W/\"v1\"")));
    let head = weir.request("HEAD", "/list").await;
    assert_eq!(head.assert_hit().header("content-length"), Some(&*list().len().to_string()));
    assert_eq!((head.header("content-encoding"), head.header("etag")), (None, Some("\"v1\"")));
}

#[tokio::test]
async fn a_head_that_is_not_stored_says_it_too() {
    let origin = Origin::start().await;
    // A backend that would code it itself, if it were asked to.
    origin.on("HEAD /list", |seen| match seen.header("accept-encoding") {
        Some(_) => Reply::text("").header("etag", "\"v1-gz\"").header("content-encoding", "gzip"),
        None => reply(),
    });
    let weir = Weir::start(&origin, LIST).await;
    let head = accepting(weir.request("HEAD", "/list"), "gzip").await;
    assert_eq!((head.header("content-encoding"), head.header("etag")), (Some("gzip"), Some("W/\"v1\"")));
    assert_eq!((head.header("content-length"), head.header("vary")), (None, Some("Accept-Encoding")));
    let head = weir.request("HEAD", "/list").http2().await;
    assert_eq!((head.header("content-encoding"), head.header("etag")), (None, Some("\"v1\"")));
    assert_eq!(head.header("content-length"), Some(&*list().len().to_string()));
}

#[tokio::test]
async fn parts_of_what_is_not_stored_are_joined_with_nothing_else_either() {
    let origin = Origin::start().await;
    origin.on("GET /list", |seen| match seen.header("range") {
        Some("bytes=500-599") => Reply::text(list()[500..600].to_owned())
            .code(206)
            .header("content-range", &format!("bytes 500-599/{}", list().len()))
            .header("etag", "\"v1\""),
        _ => reply().header("cache-control", "no-store"),
    });
    let weir = Weir::start(&origin, LIST).await;
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_not_hit());
    let ask = |validator: &str| {
        let ask = weir.get("/list").header("range", "bytes=500-599").header("if-range", validator);
        accepting(ask, "gzip")
    };
    let part = ask("\"v1\"").await;
    assert_eq!(part.assert_code(206).text(), list()[500..600]);
    assert_eq!(part.header("vary"), Some("Accept-Encoding"));
    assert_eq!(origin.last("/list").header("accept-encoding"), None);
    for other in ["W/\"v1\"", "Thu, 01 Jan 2026 00:00:00 GMT"] {
        assert_plain(ask(other).await.assert_code(200));
        assert_eq!(origin.last("/list").header("range"), None, "{other}");
    }
}

#[tokio::test]
async fn what_may_no_longer_be_touched_is_given_back_whole() {
    let origin = Origin::start().await;
    origin.on("GET /list", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("cache-control", "no-transform"),
        _ => reply(),
    });
    let weir = Weir::start(&origin, LIST).await;
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_stored());
    let validated = weir.get("/list").header("cache-control", "no-cache");
    for answer in [accepting(validated, "gzip").await, accepting(weir.get("/list"), "gzip").await] {
        assert_eq!(answer.header("content-encoding"), None, "{answer:?}");
        assert_eq!((answer.header("etag"), answer.text()), (Some("\"v1\""), list()));
    }
}

#[tokio::test]
async fn who_has_either_form_is_told_so() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    weir.get("/list").await.assert_stored();
    for (tag, codings, shown) in
        [("W/\"v1\"", "gzip", "W/\"v1\""), ("\"v1\"", "gzip", "W/\"v1\""), ("W/\"v1\"", "br", "\"v1\"")]
    {
        let answer = accepting(weir.get("/list").header("if-none-match", tag), codings).await;
        answer.assert_code(304).assert_hit();
        assert_eq!((answer.header("etag"), answer.header("vary")), (Some(shown), Some("Accept-Encoding")));
        assert_eq!(answer.header("content-encoding"), None, "nothing is encoded");
    }
    assert_eq!(weir.get("/list").header("if-none-match", "\"v2\"").await.code(), 200);
}

#[tokio::test]
async fn parts_are_of_the_plain_form_and_never_joined_with_the_other() {
    let origin = Origin::start().await;
    origin.always("GET /list", reply);
    let weir = Weir::start(&origin, LIST).await;
    let ask = |range: &str| accepting(weir.get("/list").header("range", range), "gzip");
    // The very first, while it is fetched, and then from the store.
    for _ in 0..2 {
        let part = ask("bytes=100-199").await;
        assert_eq!(part.assert_code(206).text(), list()[100..200]);
        assert_eq!((part.header("content-encoding"), part.header("etag")), (None, Some("\"v1\"")));
        assert_eq!(part.header("content-range"), Some(&*format!("bytes 100-199/{}", list().len())));
    }
    let kept = |validator: &str| ask("bytes=100-199").header("if-range", validator);
    assert_eq!(kept("\"v1\"").await.code(), 206, "the plain form's tag");
    for other in ["W/\"v1\"", "Thu, 01 Jan 2026 00:00:00 GMT"] {
        assert_plain(kept(other).await.assert_hit());
    }
    assert_plain(ask("bytes=0-1,5-6").await.assert_hit());
    assert_eq!(ask("bytes=999999-").await.code(), 416);
    let coded_alone = weir.get("/list").header("range", "bytes=0-9");
    assert_coded(accepting(coded_alone, "gzip, identity;q=0").await.assert_hit());
    assert_eq!(origin.count("/list"), 1);
}

#[tokio::test]
async fn what_is_not_worth_it_or_not_allowed_stays_as_it_is() {
    let origin = Origin::start().await;
    let weir = Weir::start(&origin, &LIST.replace("/list", "/{kind}")).await;
    let small = || Reply::text("{}").header("content-type", "application/json");
    let image = || Reply::text(vec![b'x'; 5000]).header("content-type", "image/png");
    let whole = || reply().header("cache-control", "no-transform");
    let makes: [(&str, Make); 3] = [("/small", small), ("/image", image), ("/kept-whole", whole)];
    for (path, make) in makes {
        origin.always(&format!("GET {path}"), make);
        for _ in 0..2 {
            let answer = accepting(weir.get(path), "gzip").await;
            assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, None), "{path}");
            assert!(answer.header("content-length").is_some(), "{path}");
        }
        assert_eq!(origin.count(path), 1, "{path}");
    }
    origin.always("GET /mine", reply);
    let untouched = accepting(weir.get("/mine").header("cache-control", "no-transform"), "gzip");
    assert_plain(untouched.await.assert_stored());
    assert_coded(accepting(weir.get("/mine"), "gzip").await.assert_hit());
}

#[tokio::test]
async fn what_is_not_stored_is_coded_all_the_same() {
    let origin = Origin::start().await;
    origin.always("GET /list", || reply().header("cache-control", "no-store"));
    let weir = Weir::start(&origin, LIST).await;
    for _ in 0..2 {
        assert_coded(accepting(weir.get("/list"), "gzip").await.assert_not_hit());
        assert_plain(weir.get("/list").await.assert_not_hit());
    }
    let limit = LIST.replace("compress", "max_body = \"1KiB\"\ncompress");
    let weir = Weir::start(&origin, &limit).await;
    origin.on("GET /list", |_| {
        let (sender, reply) = Reply::channel();
        tokio::spawn(async move {
            for chunk in list().as_bytes().chunks(700) {
                if sender.send(chunk.to_vec().into()).await.is_err() {
                    return;
                }
            }
        });
        reply.header("content-type", "application/json").header("etag", "\"v1\"")
    });
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_not_hit());
    assert_eq!(weir.get("/list").await.assert_not_hit().text(), list());
}

#[tokio::test]
async fn what_the_backend_sends_slowly_is_not_held_back() {
    let origin = Origin::start().await;
    let (sender, first) = Reply::channel();
    let first = std::sync::Mutex::new(Some(first.header("content-type", "text/plain")));
    origin.on("GET /list", move |_| first.lock().unwrap().take().expect("one request"));
    let weir = Weir::start(&origin, LIST).await;
    let mut opened = accepting(weir.get("/list"), "gzip").open().await.unwrap();
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    for (sent, so_far) in [("one ", "one "), ("two ", "one two "), ("three", "one two three")] {
        sender.send(sent.into()).await.unwrap();
        while decoder.get_ref() != so_far.as_bytes() {
            let chunk = within("a chunk", opened.chunk()).await.unwrap().expect("not over yet");
            decoder.write_all(&chunk).unwrap();
            decoder.flush().unwrap();
        }
    }
    drop(sender);
    assert_eq!(within("the end", opened.finish()).await.unwrap().header("content-length"), None);
    let stored = accepting(weir.get("/list"), "gzip").await;
    assert_eq!(gunzip(&stored.assert_hit().body), "one two three");
    assert_eq!(weir.get("/list").await.assert_hit().text(), "one two three");
}

#[tokio::test]
async fn trailers_come_after_the_last_of_what_was_coded() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nETag: \"v1\"\r\n\
                Trailer: X-Sum, Repr-Digest\r\n\r\n";
    let whole = format!(
        "{head}{:x}\r\n{}\r\n0\r\nX-Sum: 7\r\nRepr-Digest: sha-256=:AA==:\r\n\r\n",
        list().len(),
        list()
    );
    let origin = RawOrigin::start(move |mut stream| {
        let whole = whole.clone();
        async move {
            while !RawOrigin::read_head(&mut stream).await.is_empty() {
                stream.write_all(whole.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let texts = [LIST.to_owned(), LIST.replace("compress", "max_body = \"1KiB\"\ncompress")];
    for text in texts {
        let weir = WeirConfig::new(&text).upstream(&origin.url()).start().await;
        for http2 in [false, true] {
            let ask = accepting(weir.get(&format!("/list?{http2}")), "gzip");
            let answer = if http2 { ask.http2() } else { ask.header("te", "trailers") }.await;
            assert_eq!(gunzip(&answer.body), list());
            let trailers = answer.trailers.expect("trailers");
            assert_eq!(trailers["x-sum"], "7");
            assert!(!trailers.contains_key("repr-digest"), "of other bytes");
        }
    }
}

#[tokio::test]
async fn what_grows_beyond_the_limit_by_its_coding_is_not_kept() {
    let origin = Origin::start().await;
    let mut x = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    })
    .take(100_000)
    .collect();
    let content = noise.clone();
    origin.always("GET /list", move || Reply::text(content.clone()).header("content-type", "text/plain"));
    let text = LIST.replace("compress", "max_body = \"100000B\"\ncompress");
    let weir = Weir::start(&origin, &text).await;
    let answer = accepting(weir.get("/list"), "gzip").await;
    assert_eq!(gunzip_bytes(&answer.body), noise);
    assert_eq!(weir.get("/list").await.assert_not_hit().body, noise);
    assert_eq!(origin.count("/list"), 2);
}

#[tokio::test]
async fn what_slow_clients_of_the_plain_form_have_yet_to_read_counts_as_buffered() {
    const BODY: usize = 24 << 20;
    let origin = Origin::start().await;
    origin.always("GET /*", || Reply::text(vec![b'x'; BODY]).header("content-type", "text/plain"));
    let text = "[cache]\nmax_fill = \"40MiB\"\nmax_body = \"32MiB\"\n[[route]]\nname = \"all\"\nmatch = \"GET /**\"\n\
                ttl = \"5m\"\ncompress = \"gzip\"";
    let weir = Weir::start(&origin, text).await;
    let slow = weir.get("/slow").open().await.unwrap();
    eventually("it is stored", DEADLINE, || async { weir.get("/slow").await.hit() }).await;
    assert_eq!(weir.get("/other").await.body.len(), BODY);
    assert_eq!(weir.get("/other").await.assert_not_hit().body.len(), BODY, "there is no room to keep it");
    drop(slow);
    eventually("room again", DEADLINE, || async { weir.get("/other").await.hit() }).await;
}

#[tokio::test]
async fn events_are_not_held_together() {
    let origin = Origin::start().await;
    let (sender, events) = Reply::channel();
    let events = std::sync::Mutex::new(Some(events.header("content-type", "text/event-stream")));
    origin.on("GET /list", move |_| events.lock().unwrap().take().expect("one request"));
    let weir = Weir::start(&origin, LIST).await;
    let mut opened = accepting(weir.get("/list"), "gzip").open().await.unwrap();
    sender.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(within("an event", opened.chunk()).await.unwrap().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn what_breaks_off_is_broken_in_every_form() {
    let origin = Origin::start().await;
    origin.always("GET /list", || Reply::cut_chunked("half of it").header("content-type", "text/plain"));
    let weir = Weir::start(&origin, LIST).await;
    for codings in ["gzip", "identity"] {
        accepting(weir.get("/list"), codings).attempt().await.expect_err("the client must notice");
    }
    origin.always("GET /list", reply);
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_stored());
}

#[tokio::test]
async fn what_came_coded_is_for_those_who_asked_for_it() {
    let origin = Origin::start().await;
    // A backend that codes by what is asked for, and does not say so.
    origin.on("GET /list", |seen| match seen.header("accept-encoding").is_some_and(|a| a.contains("gzip")) {
        true => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(list().as_bytes()).unwrap();
            Reply::text(encoder.finish().unwrap())
                .header("content-type", "application/json")
                .header("content-encoding", "gzip")
        }
        false => Reply::text(list()).header("content-type", "application/json"),
    });
    let weir = Weir::start(&origin, &LIST.replace("compress = \"gzip\"", "")).await;
    let coded = accepting(weir.get("/list"), "gzip").await;
    assert_eq!(gunzip(&coded.assert_stored().body), list());
    let plain = weir.get("/list").await;
    assert_eq!(plain.header("content-encoding"), None, "bytes nobody asked for");
    assert_eq!(plain.text(), list());
    accepting(weir.get("/list"), "gzip;q=0.9").await.assert_hit();
}

#[tokio::test]
async fn tags_in_the_content_are_read_before_it_is_coded() {
    let origin = Origin::start().await;
    origin.always("GET /list", || reply().header("vary", "Accept-Encoding"));
    origin.always("POST /change", || Reply::status(204));
    let text = format!(
        "{LIST}\ntags = [\"session:{{response.session}}\"]\n[[purge]]\non = \"POST /change\"\ntags = [\"session:s1\"]"
    );
    let weir = Weir::start(&origin, &text).await;
    assert_coded(accepting(weir.get("/list"), "gzip").await.assert_stored());
    assert_plain(weir.get("/list").await.assert_hit());
    weir.post("/change").await.assert_code(204);
    // Confirmed by its tag, the same bytes live on, and their tags with them.
    origin.on("GET /list", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("vary", "Accept-Encoding"),
        _ => Reply::status(500),
    });
    for fetched in 2..4 {
        assert_coded(accepting(weir.get("/list"), "gzip").await.assert_code(200));
        assert_plain(weir.get("/list").await.assert_hit());
        assert_eq!(origin.count("/list"), fetched);
        weir.post("/change").await.assert_code(204);
    }
}
