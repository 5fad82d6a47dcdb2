//! Redis as several instances reach it: servers, connections, and what can go wrong between.
//!
//! A command travels, is carried out, and its answer travels back; each leg takes its own time, so that commands on
//! different connections overtake each other, and what its sender has given up may still be carried out later.

pub mod lua;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use redis::{Arg, Cmd, Value};
use tokio::sync::oneshot;

use self::lua::{Db, Interpreter};
use crate::exchange::{Entry, Key};
use crate::world::{Clock, World};

/// What went wrong with a command.
#[derive(Debug, Clone)]
pub enum Failure {
    /// No answer in time.
    Late,
    /// A connection that could not be made or broke, or an error reply.
    Failed(#[allow(dead_code, reason = "read in traces")] String),
}

/// What is asked of a server.
enum Request {
    Command(Vec<Vec<u8>>),
    Get(Key),
    Put(Rc<Entry>),
}

/// What comes back.
enum Reply {
    Value(Result<Value, String>),
    Entry(Option<Rc<Entry>>),
}

/// How commands fare on the way, in percent; all else arrives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lost: u64,
    pub answer_lost: u64,
    pub reset: u64,
    pub answer_reset: u64,
    pub slow: u64,
    /// Longest usual way, microseconds.
    pub way: u64,
    /// Longest slow way, microseconds.
    pub slow_way: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Lost,
    AnswerLost,
    Reset,
    AnswerReset,
}

struct Server {
    db: Db,
    up: bool,
    frozen: bool,
    /// Connections made before the last crash are no more.
    life: u64,
    /// What arrived while it was frozen.
    waiting: Vec<Box<dyn FnOnce()>>,
    /// Those who wait at its streams, by number.
    blocked: BTreeMap<u64, Answer>,
}

/// Where an answer goes.
struct Answer {
    host: usize,
    fate: Fate,
    way: u64,
    to: oneshot::Sender<Reply>,
}

/// All servers there are.
pub struct Redis {
    world: Rc<World>,
    interpreter: Rc<Interpreter>,
    servers: RefCell<Vec<Server>>,
    /// Which of them each instance believes to be the primary.
    believed: RefCell<Vec<usize>>,
    primary: Cell<usize>,
    lives: Cell<u64>,
    /// Instances that reach no server.
    cut: RefCell<BTreeSet<usize>>,
    /// Instances whose answers are late, by how many microseconds.
    late: RefCell<BTreeMap<usize, u64>>,
    pub weather: Cell<Weather>,
    /// What will never be answered.
    limbo: RefCell<Vec<oneshot::Sender<Reply>>>,
    numbers: Cell<u64>,
}

impl Redis {
    pub fn new(world: &Rc<World>, interpreter: &Rc<Interpreter>, hosts: usize) -> Rc<Redis> {
        let redis = Rc::new(Redis {
            world: Rc::clone(world),
            interpreter: Rc::clone(interpreter),
            servers: RefCell::default(),
            believed: RefCell::new(vec![0; hosts]),
            primary: Cell::new(0),
            lives: Cell::new(1),
            cut: RefCell::default(),
            late: RefCell::default(),
            weather: Cell::default(),
            limbo: RefCell::default(),
            numbers: Cell::new(0),
        });
        redis.add_server(interpreter.db());
        redis
    }

    fn add_server(&self, db: Db) -> usize {
        db.set("run_id", self.run_id());
        db.set("read_only", false);
        let mut servers = self.servers.borrow_mut();
        servers.push(Server {
            db,
            up: true,
            frozen: false,
            life: 0,
            waiting: Vec::new(),
            blocked: BTreeMap::new(),
        });
        servers.len() - 1
    }

    fn run_id(&self) -> String {
        format!("{:016x}{:016x}{:08x}", self.world.random(), self.world.random(), self.world.random() >> 32)
    }

    /// The primary's data as its replica has it now.
    pub fn replica(&self) -> Db {
        self.with_primary(|db| self.interpreter.copy(db))
    }

    /// Looks at, or does something to, the primary's data behind everybody's back.
    pub fn with_primary<T>(&self, look: impl FnOnce(&mut Db) -> T) -> T {
        look(&mut self.servers.borrow_mut()[self.primary.get()].db)
    }

    /// Lets go of everything: what waits at a server holds on to it.
    pub fn end(&self) {
        let servers = std::mem::take(&mut *self.servers.borrow_mut());
        let limbo = std::mem::take(&mut *self.limbo.borrow_mut());
        drop((servers, limbo));
    }

    /// How often it has been started.
    pub fn lives(&self) -> u64 {
        self.lives.get()
    }

    pub fn is_up(&self) -> bool {
        self.servers.borrow()[self.primary.get()].up
    }

    /// The primary ends; what waited at it learns of it.
    pub fn crash(&self) {
        let gone = {
            let mut servers = self.servers.borrow_mut();
            let server = &mut servers[self.primary.get()];
            server.up = false;
            server.frozen = false;
            server.life += 1;
            for number in server.blocked.keys() {
                self.interpreter.forget(&server.db, *number);
            }
            (std::mem::take(&mut server.blocked), std::mem::take(&mut server.waiting))
        };
        drop(gone);
    }

    pub fn restart(&self, keep: bool) {
        let run_id = self.run_id();
        let mut servers = self.servers.borrow_mut();
        let server = &mut servers[self.primary.get()];
        server.up = true;
        self.lives.set(self.lives.get() + 1);
        server.db.set("run_id", run_id);
        if !keep {
            server.db.clear();
        }
    }

    pub fn freeze(&self) {
        self.servers.borrow_mut()[self.primary.get()].frozen = true;
    }

    pub fn thaw(&self) {
        let waiting = {
            let mut servers = self.servers.borrow_mut();
            let server = &mut servers[self.primary.get()];
            server.frozen = false;
            std::mem::take(&mut server.waiting)
        };
        waiting.into_iter().for_each(|arrive| arrive());
    }

    pub fn flush(&self) {
        self.with_primary(Db::clear);
    }

    /// A replica with `data` becomes the primary; the old one, should it live, takes no more writes. Instances learn
    /// of it one by one, within `learn` microseconds.
    pub fn fail_over(self: &Rc<Redis>, data: Db, old_lives: bool, learn: u64) {
        let old = self.primary.get();
        if old_lives {
            self.servers.borrow_mut()[old].db.set("read_only", true);
        } else {
            self.crash();
        }
        let new = self.add_server(data);
        self.primary.set(new);
        for host in 0..self.believed.borrow().len() {
            let redis = Rc::clone(self);
            self.world.after(self.world.range(0, learn), move || {
                let believed = &mut redis.believed.borrow_mut()[host];
                *believed = new.max(*believed);
            });
        }
    }

    pub fn cut(&self, host: usize) {
        self.cut.borrow_mut().insert(host);
    }

    pub fn mend(&self, host: usize) {
        self.cut.borrow_mut().remove(&host);
    }

    pub fn is_cut(&self, host: usize) -> bool {
        self.cut.borrow().contains(&host)
    }

    /// Answers to an instance take so much longer from now on, microseconds.
    pub fn delay(&self, host: usize, by: u64) {
        self.late.borrow_mut().insert(host, by);
    }

    fn fate(&self) -> (Fate, u64, u64) {
        let weather = self.weather.get();
        let mut rng = self.world.rng();
        let mut roll = rng.below(100);
        let mut fate = Fate::Fine;
        for (percent, which) in [
            (weather.lost, Fate::Lost),
            (weather.answer_lost, Fate::AnswerLost),
            (weather.reset, Fate::Reset),
            (weather.answer_reset, Fate::AnswerReset),
        ] {
            if roll < percent {
                fate = which;
                break;
            }
            roll -= percent;
        }
        let longest = if rng.chance(weather.slow) { weather.slow_way } else { weather.way };
        (fate, 50 + rng.below(longest), 50 + rng.below(longest))
    }

    /// Sends a request on a connection to `server` made in its life `life`.
    fn send(
        self: &Rc<Redis>,
        host: usize,
        (server, life): (usize, u64),
        request: Request,
    ) -> oneshot::Receiver<Reply> {
        let (to, receiver) = oneshot::channel();
        let (fate, there, back) = self.fate();
        let answer = Answer { host, fate, way: back, to };
        let redis = Rc::clone(self);
        self.world.after(there, move || redis.arrive(server, life, request, answer));
        receiver
    }

    fn arrive(self: &Rc<Redis>, at: usize, life: u64, request: Request, answer: Answer) {
        if self.is_cut(answer.host) || answer.fate == Fate::Lost {
            self.limbo.borrow_mut().push(answer.to);
            return;
        }
        {
            let mut servers = self.servers.borrow_mut();
            let server = &mut servers[at];
            if !server.up || server.life != life || answer.fate == Fate::Reset {
                return;
            }
            if server.frozen {
                let redis = Rc::clone(self);
                server.waiting.push(Box::new(move || redis.arrive(at, life, request, answer)));
                return;
            }
        }
        self.carry_out(at, request, answer);
    }

    fn carry_out(self: &Rc<Redis>, at: usize, request: Request, answer: Answer) {
        let mut servers = self.servers.borrow_mut();
        let server = &mut servers[at];
        let now = self.world.now() / 1000;
        let (reply, longer) = match request {
            Request::Get(key) => (Reply::Entry(server.db.entries.get(&key).cloned()), false),
            Request::Put(entry) => {
                if !server.db.is_read_only() {
                    server.db.entries.insert(entry.key, entry);
                }
                (Reply::Entry(None), false)
            }
            Request::Command(args) => {
                let (value, longer) = match args[0].as_slice() {
                    b"EVAL" => self.interpreter.eval(&server.db, now, &args),
                    b"XREAD" => match self.read(at, server, &args, answer) {
                        None => return,
                        Some((value, back)) => return self.answer(back, Reply::Value(value)),
                    },
                    _ => self.interpreter.call(&server.db, now, &args),
                };
                (Reply::Value(value), longer)
            }
        };
        self.answer(answer, reply);
        if longer {
            self.unblock(server);
        }
    }

    fn answer(self: &Rc<Redis>, answer: Answer, reply: Reply) {
        match answer.fate {
            Fate::AnswerReset => {}
            Fate::AnswerLost => self.limbo.borrow_mut().push(answer.to),
            _ => {
                let redis = Rc::clone(self);
                let late = self.late.borrow().get(&answer.host).copied().unwrap_or(0);
                self.world.after(answer.way + late, move || {
                    if redis.is_cut(answer.host) {
                        redis.limbo.borrow_mut().push(answer.to);
                    } else {
                        let _ = answer.to.send(reply);
                    }
                });
            }
        }
    }

    /// `XREAD COUNT n BLOCK ms STREAMS key key key id id id`.
    fn read(
        self: &Rc<Redis>,
        at: usize,
        server: &mut Server,
        args: &[Vec<u8>],
        answer: Answer,
    ) -> Option<(Result<Value, String>, Answer)> {
        let block: u64 = std::str::from_utf8(&args[4]).unwrap().parse().unwrap();
        let number = self.numbers.replace(self.numbers.get() + 1);
        if let Some(reply) = self.interpreter.read(&server.db, number, &args[6..]) {
            return Some((reply, answer));
        }
        server.blocked.insert(number, answer);
        let redis = Rc::clone(self);
        self.world.after(block * 1000, move || redis.time_out(at, number));
        None
    }

    fn time_out(self: &Rc<Redis>, at: usize, number: u64) {
        let answer = {
            let mut servers = self.servers.borrow_mut();
            let server = &mut servers[at];
            let Some(answer) = server.blocked.remove(&number) else { return };
            self.interpreter.forget(&server.db, number);
            answer
        };
        self.answer(answer, Reply::Value(Ok(Value::Nil)));
    }

    /// Whoever waits for what has just been written.
    fn unblock(self: &Rc<Redis>, server: &mut Server) {
        while let Some((number, reply)) = self.interpreter.unblock(&server.db) {
            if let Some(answer) = server.blocked.remove(&number) {
                self.answer(answer, Reply::Value(reply));
            }
        }
    }

    /// The server an instance would connect to, and its life.
    fn believed(&self, host: usize) -> (usize, u64) {
        let at = self.believed.borrow()[host];
        (at, self.servers.borrow()[at].life)
    }
}

/// Mirrors `link::Dedicated`: a connection of one task, made when needed, given up at the first failure.
pub struct Dedicated {
    redis: Rc<Redis>,
    host: usize,
    clock: Clock,
    connection: Option<(usize, u64)>,
}

/// Longest that connecting may take.
const CONNECT: Duration = Duration::from_millis(200);

impl Dedicated {
    pub fn new(redis: &Rc<Redis>, host: usize, clock: &Clock) -> Dedicated {
        Dedicated { redis: Rc::clone(redis), host, clock: clock.clone(), connection: None }
    }

    pub async fn command(&mut self, command: &Cmd, limit: Duration) -> Result<Value, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let args = command.args_iter().filter_map(|arg| match arg {
            Arg::Simple(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        let reply = self.redis.send(self.host, connection, Request::Command(args.collect()));
        match self.clock.timeout(limit, reply).await {
            None => Err(Failure::Late),
            Some(Err(_)) => Err(Failure::Failed("reset".to_owned())),
            Some(Ok(Reply::Value(Ok(value)))) => {
                self.connection = Some(connection);
                Ok(value)
            }
            Some(Ok(Reply::Value(Err(message)))) => Err(Failure::Failed(message)),
            Some(Ok(Reply::Entry(_))) => unreachable!("a command has a value"),
        }
    }

    async fn connect(&self) -> Result<(usize, u64), Failure> {
        let world = &self.clock.world;
        self.clock.sleep(Duration::from_micros(100 + world.range(0, self.redis.weather.get().way))).await;
        if self.redis.is_cut(self.host) {
            self.clock.sleep(CONNECT).await;
            return Err(Failure::Late);
        }
        let (at, life) = self.redis.believed(self.host);
        if self.redis.servers.borrow()[at].up {
            Ok((at, life))
        } else {
            Err(Failure::Failed("refused".to_owned()))
        }
    }
}

/// Mirrors what the read path does with Redis: one try, within its budget.
pub async fn get(
    redis: &Rc<Redis>,
    host: usize,
    clock: &Clock,
    key: Key,
    limit: Duration,
) -> Option<Rc<Entry>> {
    let reply = redis.send(host, redis.believed(host), Request::Get(key));
    match clock.timeout(limit, reply).await {
        Some(Ok(Reply::Entry(entry))) => entry,
        _ => None,
    }
}

/// Stores an entry, or not.
pub fn put(redis: &Rc<Redis>, host: usize, entry: Rc<Entry>) {
    drop(redis.send(host, redis.believed(host), Request::Put(entry)));
}
