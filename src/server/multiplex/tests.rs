use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::woken::Woken;

/// A wire that takes, by one write each, as many bytes as it is told to; then none, until it is told more.
#[derive(Debug, Default)]
struct Narrow {
    rooms: VecDeque<usize>,
    taken: Vec<u8>,
    writes: usize,
    flushes: usize,
    broken: bool,
    down: bool,
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(room) = self.rooms.pop_front() else { return Poll::Pending };
        self.writes += 1;
        let n = bytes.len().min(room);
        self.taken.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.down = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Narrow {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn still() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn narrow(rooms: impl IntoIterator<Item = usize>) -> Shared<Narrow> {
    Shared::new(Narrow { rooms: rooms.into_iter().collect(), ..Narrow::default() })
}

fn write(wire: &mut Shared<Narrow>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(wire).poll_write(&mut still(), bytes)
}

#[test]
fn what_is_written_in_one_turn_leaves_by_one_write_and_is_flushed_behind_it() {
    let mut wire = narrow([1 << 20]);
    for piece in [&b"one "[..], b"two ", b"three"] {
        assert!(matches!(write(&mut wire, piece), Poll::Ready(Ok(n)) if n == piece.len()));
        assert!(Pin::new(&mut wire).poll_flush(&mut still()).is_ready());
    }
    let mut gather = wire.0.lock();
    assert_eq!((gather.wire.writes, gather.wire.flushes), (0, 0), "not yet");
    gather.send(&mut still());
    assert_eq!(gather.wire.taken, b"one two three");
    assert_eq!((gather.wire.writes, gather.wire.flushes), (1, 1));
    assert_eq!(gather.waiting.capacity(), 0, "and no room is kept");
    gather.send(&mut still());
    assert_eq!((gather.wire.writes, gather.wire.flushes), (1, 1), "nothing is done for nothing");
}

#[test]
fn what_is_large_goes_with_what_waits_by_one_write_uncopied() {
    let mut wire = narrow([1 << 20]);
    let large = vec![b'x'; COPIED + 1];
    assert!(write(&mut wire, b"small").is_ready());
    assert!(matches!(write(&mut wire, &large), Poll::Ready(Ok(n)) if n == large.len()));
    let gather = wire.0.lock();
    assert_eq!(gather.wire.writes, 1);
    assert_eq!(gather.wire.taken, [b"small", &large[..]].concat());
    assert!(gather.waiting.is_empty());
}

#[test]
fn no_more_than_so_much_waits_for_a_client_that_does_not_read() {
    let mut wire = narrow([]);
    let piece = [b'x'; 1000];
    let mut offered = 0;
    while let Poll::Ready(wrote) = write(&mut wire, &piece) {
        offered += wrote.unwrap();
        wire.0.lock().send(&mut still());
        assert!(offered <= GATHERED);
    }
    assert_eq!(offered, GATHERED / piece.len() * piece.len());
    wire.0.lock().wire.rooms.extend([1 << 20; 2]);
    assert!(write(&mut wire, &piece).is_ready(), "and it goes on when the client does");
    wire.0.lock().send(&mut still());
    assert_eq!(wire.0.lock().wire.taken.len(), offered + piece.len());
}

/// What one call on the wire says.
type Said = dyn Fn(&mut Shared<Narrow>) -> Poll<Result<(), io::ErrorKind>>;

#[test]
fn a_failure_wakes_the_connection_and_is_told_to_who_reads_or_writes_next() {
    let reads = |wire: &mut Shared<Narrow>| {
        let mut room = [0; 8];
        Pin::new(wire).poll_read(&mut still(), &mut ReadBuf::new(&mut room)).map_err(|error| error.kind())
    };
    let writes =
        |wire: &mut Shared<Narrow>| write(wire, b"more").map_ok(|_| ()).map_err(|error| error.kind());
    let flushes =
        |wire: &mut Shared<Narrow>| Pin::new(wire).poll_flush(&mut still()).map_err(|error| error.kind());
    let ends =
        |wire: &mut Shared<Narrow>| Pin::new(wire).poll_shutdown(&mut still()).map_err(|error| error.kind());
    for told in [&reads as &Said, &writes, &flushes, &ends] {
        let mut wire = narrow([]);
        wire.0.lock().wire.broken = true;
        assert!(write(&mut wire, b"x").is_ready());
        let (woken, waker) = Woken::counted();
        wire.0.lock().send(&mut Context::from_waker(&waker));
        assert_eq!(woken.times(), 1);
        assert_eq!(told(&mut wire), Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
    }
    let mut wire = narrow([0]);
    assert!(write(&mut wire, b"x").is_ready());
    wire.0.lock().send(&mut still());
    assert_eq!(reads(&mut wire), Poll::Ready(Err(io::ErrorKind::WriteZero)), "or it would be asked for ever");
}

#[test]
fn the_end_waits_for_all_that_was_written() {
    let mut wire = narrow([3]);
    assert!(write(&mut wire, b"the last words").is_ready());
    assert!(Pin::new(&mut wire).poll_shutdown(&mut still()).is_pending());
    assert!(!wire.0.lock().wire.down);
    wire.0.lock().wire.rooms.push_back(100);
    assert!(Pin::new(&mut wire).poll_shutdown(&mut still()).is_ready());
    assert_eq!(wire.0.lock().wire.taken, b"the last words");
    assert!(wire.0.lock().wire.down);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is offered in whatever pieces, and however little is taken: what was said to be taken leaves, in order.
    #[test]
    fn bytes_leave_in_order(
        pieces in prop::collection::vec(prop::collection::vec(0_usize..40_000, 1..4), 1..12),
        rooms in prop::collection::vec(1_usize..50_000, 0..40),
        turns in prop::collection::vec(any::<bool>(), 12),
    ) {
        let mut wire = narrow(rooms);
        let (mut expected, mut next) = (Vec::new(), 0_u8);
        for (sizes, turn) in pieces.iter().zip(turns) {
            let contents: Vec<Vec<u8>> = sizes.iter().map(|&size| {
                (0..size).map(|_| { next = next.wrapping_add(1); next }).collect()
            }).collect();
            let slices: Vec<IoSlice<'_>> = contents.iter().map(|content| IoSlice::new(content)).collect();
            if let Poll::Ready(wrote) = Pin::new(&mut wire).poll_write_vectored(&mut still(), &slices) {
                expected.extend(contents.concat().into_iter().take(wrote.unwrap()));
            }
            if turn {
                wire.0.lock().send(&mut still());
            }
        }
        let mut gather = wire.0.lock();
        prop_assert!(gather.waiting.len() <= GATHERED);
        gather.wire.rooms.extend([1 << 20; 2]);
        gather.send(&mut still());
        prop_assert!(gather.wire.taken == expected);
    }
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn a_stream_that_has_its_answer_needs_no_task_and_others_have_one() {
    let streams = Streams::default();
    streams.begin();
    let before = tasks();
    for _ in 0..AT_ONCE {
        streams.execute(std::future::ready(()));
    }
    assert_eq!(tasks(), before);
    streams.execute(std::future::ready(()));
    assert_eq!(tasks(), before + 1, "others have their turn");
    streams.begin();
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = tokio::sync::oneshot::channel();
    streams.execute(async move {
        let _ = wait.await;
        let _ = tell.send(());
    });
    go.send(()).unwrap();
    told.await.expect("it is woken as any task is");
}

#[tokio::test]
async fn a_panic_is_the_end_of_its_stream_alone() {
    let streams = Streams::default();
    streams.begin();
    let held = Arc::new(());
    let witness = Arc::downgrade(&held);
    streams.execute(async move {
        let _held = held;
        panic!("on purpose");
    });
    assert!(witness.upgrade().is_none(), "what it held is freed");
}

/// One end of a pipe that counts writes.
struct Counting(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn requests_that_came_together_are_answered_together() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let writes = Arc::<AtomicUsize>::default();
    let served = Multiplexed::of(Counting(near, Arc::clone(&writes)), |wire, streams| {
        let answer = |request: Request<Incoming>| async move {
            let content = request.uri().path().repeat(1000);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(content))))
        };
        http2::Builder::new(streams).serve_connection(TokioIo::new(wire), service_fn(answer))
    });
    let served = tokio::spawn(served);
    let (mut sender, connection) = client::handshake(TokioExecutor::new(), TokioIo::new(far)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &'static str, sender: &mut client::SendRequest<Empty<Bytes>>| {
        let request = Request::get(format!("http://api.example{path}")).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request);
        async move {
            let content = response.await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(content, path.repeat(1000));
        }
    };
    // Preface, settings and windows have their own writes.
    ask("/0", &mut sender).await;
    let before = writes.load(Ordering::SeqCst);
    let paths = ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"];
    futures_util::future::join_all(paths.map(|path| ask(path, &mut sender))).await;
    let took = writes.load(Ordering::SeqCst) - before;
    assert!(took <= 3, "{took} writes for eight answers");
    drop(sender);
    connection.await.unwrap().unwrap();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_client_reads_slowly_comes_whole() {
    let (near, mut far) = tokio::io::duplex(100);
    let mut wire = Shared::new(near);
    let all: Vec<u8> = (0..300_000_usize).map(|n| (n % 251) as u8).collect();
    let expected = all.clone();
    let reader = tokio::spawn(async move {
        let mut read = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read).await.map(|_| read)
    });
    for piece in all.chunks(1777) {
        wire.write_all(piece).await.unwrap();
    }
    wire.shutdown().await.unwrap();
    drop(wire);
    assert!(reader.await.unwrap().unwrap() == expected);
}
