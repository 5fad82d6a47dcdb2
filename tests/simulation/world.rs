//! Time, tasks and processes of a simulated world: one thread, one order of events, all of it from one seed.
//!
//! The drivers that are mirrored are written as they are in production, as tasks that wait for each other. A task
//! belongs to a process: a frozen process' tasks are not polled until it wakes (its timers may long be due by then), a
//! crashed one's are gone. Time moves only when no task can.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::prng::Rng;

/// A process: the tasks of one life of one instance. 0 is everybody else (clients, network).
pub type Pid = usize;
/// Who never dies.
pub const OUTSIDE: Pid = 0;

/// Microseconds of the world's own clock, which no instance sees.
pub type Micros = u64;

type Action = Box<dyn FnOnce()>;
type Work = Pin<Box<dyn Future<Output = ()>>>;

enum Due {
    Wake(Waker),
    Do(Action),
}

struct Timer {
    at: Micros,
    order: u64,
    due: Due,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Timer) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Timer) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Task {
    pid: Pid,
    /// Out while it is being polled.
    work: Option<Work>,
    waker: Waker,
}

enum Process {
    Running,
    /// With the tasks that would have been polled.
    Frozen(Vec<usize>),
    Dead,
}

struct Ring {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ring {
    fn wake(self: Arc<Ring>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Ring>) {
        self.ready.lock().unwrap().push(self.task);
    }
}

/// The world.
pub struct World {
    now: Cell<Micros>,
    rng: RefCell<Rng>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    order: Cell<u64>,
    tasks: RefCell<Vec<Option<Task>>>,
    ready: Arc<Mutex<Vec<usize>>>,
    processes: RefCell<Vec<Process>>,
    trace: Option<RefCell<Vec<String>>>,
}

impl World {
    pub fn new(seed: u64, tracing: bool) -> Rc<World> {
        Rc::new(World {
            now: Cell::new(1_000_000),
            rng: RefCell::new(Rng::new(seed)),
            timers: RefCell::default(),
            order: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::default(),
            processes: RefCell::new(vec![Process::Running]),
            trace: tracing.then(RefCell::default),
        })
    }

    pub fn now(&self) -> Micros {
        self.now.get()
    }

    pub fn rng(&self) -> std::cell::RefMut<'_, Rng> {
        self.rng.borrow_mut()
    }

    pub fn random(&self) -> u64 {
        self.rng().next()
    }

    pub fn chance(&self, percent: u64) -> bool {
        self.rng().chance(percent)
    }

    pub fn range(&self, low: u64, high: u64) -> u64 {
        self.rng().range(low, high)
    }

    /// Writes a line of the trace, if anybody will read it.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let now = self.now();
            trace.borrow_mut().push(format!("{:>4}.{:06}  {}", now / 1_000_000, now % 1_000_000, line()));
        }
    }

    pub fn take_trace(&self) -> Vec<String> {
        self.trace.as_ref().map(RefCell::take).unwrap_or_default()
    }

    pub fn new_process(&self) -> Pid {
        let mut processes = self.processes.borrow_mut();
        processes.push(Process::Running);
        processes.len() - 1
    }

    pub fn spawn(&self, pid: Pid, work: impl Future<Output = ()> + 'static) {
        if matches!(self.processes.borrow()[pid], Process::Dead) {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let id = tasks.len();
        let waker = Waker::from(Arc::new(Ring { task: id, ready: Arc::clone(&self.ready) }));
        tasks.push(Some(Task { pid, work: Some(Box::pin(work)), waker }));
        self.ready.lock().unwrap().push(id);
    }

    /// Does something `after` so many microseconds.
    pub fn after(&self, after: Micros, action: impl FnOnce() + 'static) {
        self.push(self.now() + after, Due::Do(Box::new(action)));
    }

    fn push(&self, at: Micros, due: Due) {
        let order = self.order.replace(self.order.get() + 1);
        self.timers.borrow_mut().push(Reverse(Timer { at, order, due }));
    }

    pub fn freeze(&self, pid: Pid) {
        let process = &mut self.processes.borrow_mut()[pid];
        if matches!(process, Process::Running) {
            *process = Process::Frozen(Vec::new());
        }
    }

    pub fn thaw(&self, pid: Pid) {
        let mut processes = self.processes.borrow_mut();
        if let Process::Frozen(waiting) = &mut processes[pid] {
            self.ready.lock().unwrap().append(waiting);
            processes[pid] = Process::Running;
        }
    }

    pub fn is_dead(&self, pid: Pid) -> bool {
        matches!(self.processes.borrow()[pid], Process::Dead)
    }

    /// All its tasks are gone at once.
    pub fn kill(&self, pid: Pid) {
        self.processes.borrow_mut()[pid] = Process::Dead;
        let gone: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.iter_mut().filter(|t| t.as_ref().is_some_and(|t| t.pid == pid)).map(Option::take).collect()
        };
        drop(gone);
    }

    /// Everything that is gone at the end of a schedule, so that nothing keeps the world alive.
    pub fn end(&self) {
        let gone = (self.tasks.take(), self.timers.take());
        drop(gone);
    }

    /// Runs until `end`, or until nothing can happen any more.
    pub fn run_until(&self, end: Micros) {
        loop {
            while let Some(id) = self.next_ready() {
                self.poll(id);
            }
            let next = match self.timers.borrow_mut().pop() {
                Some(Reverse(timer)) => timer,
                None => return,
            };
            if next.at > end {
                self.now.set(end);
                self.timers.borrow_mut().push(Reverse(next));
                return;
            }
            self.now.set(self.now().max(next.at));
            match next.due {
                Due::Wake(waker) => waker.wake(),
                Due::Do(action) => action(),
            }
        }
    }

    /// One of those that can go on, whichever.
    fn next_ready(&self) -> Option<usize> {
        let mut ready = self.ready.lock().unwrap();
        match ready.len() {
            0 => None,
            1 => ready.pop(),
            n => {
                let at = self.rng().below(n as u64) as usize;
                Some(ready.swap_remove(at))
            }
        }
    }

    fn poll(&self, id: usize) {
        let (mut work, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = &mut tasks[id] else { return };
            if let Process::Frozen(waiting) = &mut self.processes.borrow_mut()[task.pid] {
                waiting.push(id);
                return;
            }
            let Some(work) = task.work.take() else { return };
            (work, task.waker.clone())
        };
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        if done {
            tasks[id] = None;
            drop(tasks);
        } else if let Some(task) = &mut tasks[id] {
            task.work = Some(work);
        }
    }
}

/// One instance's clock: runs a little too fast or too slow, and began who knows when.
#[derive(Clone)]
pub struct Clock {
    pub world: Rc<World>,
    /// Its thousandths of a second per second of the world's.
    pub rate: u64,
    pub offset: Micros,
}

impl Clock {
    /// `Clock::elapsed` of production.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.offset + self.world.now() * self.rate / 1000)
    }

    pub fn sleep(&self, time: Duration) -> Sleep {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        Sleep {
            world: Rc::clone(&self.world),
            at: self.world.now() + micros / self.rate * 1000 + micros % self.rate * 1000 / self.rate + 1,
            set: false,
        }
    }

    /// As `tokio::time::timeout`: what is there is taken, however late.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut sleep = self.sleep(limit);
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Pin::new(&mut sleep).poll(context).map(|()| None),
        })
        .await
    }
}

/// As `tokio::sync::watch` is used: a number that rises and wakes whoever waits. (That one wakes in random order.)
#[derive(Default)]
pub struct Signal {
    version: Cell<u64>,
    notify: tokio::sync::Notify,
}

impl Signal {
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    pub fn raise(&self) {
        self.version.set(self.version.get() + 1);
        self.notify.notify_waiters();
    }

    /// Waits until it has risen above `seen`.
    pub async fn changed(&self, seen: u64) {
        while self.version.get() == seen {
            self.notify.notified().await;
        }
    }
}

pub struct Sleep {
    world: Rc<World>,
    at: Micros,
    set: bool,
}

impl Sleep {
    /// Until a moment of the world's own.
    pub fn until(world: &Rc<World>, at: Micros) -> Sleep {
        Sleep { world: Rc::clone(world), at, set: false }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.set {
            self.set = true;
            self.world.push(self.at, Due::Wake(context.waker().clone()));
        }
        Poll::Pending
    }
}
