//! One schedule: instances, clients and faults, all of it from a seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use weir::coherence::{Agreement, Alone, Coherence, Epoch, Event, EventKind, Mode};
use weir::store::UnreachableLog;

use crate::backend::{Backend, EVERYTHING, Fate, GROUPS, ITEMS, Pace, THINGS};
use crate::exchange::{Exchange, Key, Lifetimes, Manner};
use crate::ledger::{BACK, Coverage, FORGOTTEN, Ledger, Mutation, UNANSWERED, Violation};
use crate::log::{Log, Settings};
use crate::redis::lua::Interpreter;
use crate::redis::{Redis, Weather};
use crate::sabotage::Sabotage;
use crate::world::{Clock, Micros, OUTSIDE, Sleep, World};

/// What kind of trouble there is; each leaves out what DESIGN §4.7 calls a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything at once: mutations are refused while the log is away, nobody serves alone.
    Rough,
    /// One instance that serves on by itself.
    Alone,
    /// Mutations are forwarded while Redis is away for everybody.
    Forward,
    /// Instances that would serve alone, and none joins or leaves while Redis is away.
    Company,
    /// A backend whose reads lag behind its writes.
    Lagging,
    /// A backend that takes its time over mutations.
    Mulling,
    /// Mutations are forwarded while Redis is away for some.
    Severed,
}

/// What came of it.
pub struct Verdict {
    pub violation: Option<Violation>,
    pub coverage: Coverage,
    pub trace: Vec<String>,
}

struct Stage {
    world: Rc<World>,
    redis: Rc<Redis>,
    interpreter: Rc<Interpreter>,
    backend: Rc<Backend>,
    ledger: Rc<Ledger>,
    kind: Kind,
    /// Microseconds.
    lease: Micros,
    settings: Vec<Settings>,
    clocks: Vec<Clock>,
    manner: Manner,
    rules: Cell<u64>,
    instances: RefCell<Vec<Option<Rc<Exchange>>>>,
    /// How often each instance has been frozen or killed: what was under way then may take its time.
    shaken: RefCell<Vec<u64>>,
    /// Longest that a read may take.
    bound: Micros,
    operations: Cell<u64>,
    reading: Cell<u64>,
    resting: Cell<bool>,
    /// Of a company, the first instance alone is cut off, now and then; else Redis is away for all.
    cuts: bool,
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64, sabotage: Option<Sabotage>, interpreter: &Rc<Interpreter>, tracing: bool) -> Verdict {
    let world = World::new(seed, tracing);
    let stage = Stage::new(&world, interpreter, sabotage);
    stage.play();
    let verdict = Verdict {
        violation: stage.ledger.violation.take(),
        coverage: stage.ledger.coverage.take(),
        trace: world.take_trace(),
    };
    stage.instances.borrow_mut().clear();
    world.end();
    stage.redis.end();
    verdict
}

impl Stage {
    fn new(world: &Rc<World>, interpreter: &Rc<Interpreter>, sabotage: Option<Sabotage>) -> Rc<Stage> {
        let kind = match world.range(0, 99) {
            0..=50 => Kind::Rough,
            51..=60 => Kind::Alone,
            61..=70 => Kind::Forward,
            71..=76 => Kind::Company,
            77..=85 => Kind::Lagging,
            86..=92 => Kind::Mulling,
            _ => Kind::Severed,
        };
        let hosts = match kind {
            Kind::Alone => 1,
            _ if world.chance(80) => 2,
            _ => 3,
        };
        let lease = if world.chance(50) { 1_000_000 } else { 500_000 };
        let redis = Redis::new(world, interpreter, hosts);
        redis.weather.set(weather(world, kind, lease));
        let lag = if kind == Kind::Lagging { lease / 4 } else { 0 };
        let stuck = if world.chance(10) { 5 } else { 0 };
        let pace = Pace {
            way: world.range(500, 20_000),
            slow: match kind {
                Kind::Lagging => world.range(10, 40),
                _ if world.chance(60) => world.range(1, 20),
                _ => 0,
            },
            slow_way: lease,
            stuck,
            stuck_way: if stuck > 0 { lease * 5 } else { 0 },
            mulls: if kind == Kind::Mulling { lease * 3 } else { 0 },
            broken: if world.chance(40) { world.range(1, 15) } else { 0 },
            etags: world.range(0, 2) * 50,
            lag,
            patience: if kind == Kind::Mulling { lease * 5 } else { lease },
        };
        let backend = Backend::new(world, pace);
        let ledger = Ledger::new(world, lag);
        let secret = world.chance(30).then_some([9; 32]);
        if world.chance(15) {
            // So few events are kept that who falls behind finds a gap.
            let keep = world.range(1, 4);
            redis.with_primary(|db| db.set("keep", keep));
        }
        let agreement = Agreement { lease: Duration::from_micros(lease), mode: Mode::Strong };
        let mut settings = vec![
            Settings {
                agreement,
                alone: match kind {
                    Kind::Alone | Kind::Company => Alone::Serve,
                    _ => Alone::Bypass,
                },
                unreachable: match kind {
                    Kind::Forward | Kind::Severed => UnreachableLog::Forward,
                    Kind::Alone if world.chance(50) => UnreachableLog::Forward,
                    _ => UnreachableLog::Refuse,
                },
                secret,
                sabotage,
            };
            hosts
        ];
        if world.chance(10) {
            // A secret that is being changed: not on all instances yet.
            settings.iter_mut().zip(1..).for_each(|(s, n)| s.secret = Some([n; 32]));
        }
        if kind == Kind::Rough && world.chance(10) {
            ledger.count("an instance with another lease");
            let lease = if world.chance(50) { lease / 4 } else { lease * 4 };
            settings[hosts - 1].agreement.lease = Duration::from_micros(lease);
        }
        let clocks = (0..hosts)
            .map(|_| Clock {
                world: Rc::clone(world),
                rate: world.range(955, 1045),
                offset: world.range(0, 1 << 40),
            })
            .collect();
        let coalesce_timeout = Duration::from_micros(lease / 2);
        let manner = Manner {
            lifetimes: Lifetimes {
                fresh: match kind {
                    Kind::Mulling => lease * 20,
                    _ if world.chance(40) => lease / 4 * world.range(1, 4),
                    _ => lease / 4 * world.range(1, 40),
                },
                while_revalidate: if world.chance(50) { 0 } else { lease / 2 * world.range(0, 10) },
                if_error: lease / 2 * world.range(0, 10),
                keep: lease * world.range(1, 10),
            },
            settle: (kind == Kind::Lagging).then(|| Duration::from_micros(lag * 9 / 8)),
            coalesce_timeout,
            late: if world.chance(30) { lease * 2 } else { 5_000 },
            severed: kind == Kind::Severed,
        };
        let bound = (lease / 2 + 2 * (lease + pace.way) + 4 * 50_000 + 100_000) * 100 / 95;
        Rc::new(Stage {
            world: Rc::clone(world),
            redis,
            interpreter: Rc::clone(interpreter),
            backend,
            ledger,
            kind,
            lease,
            settings,
            clocks,
            manner,
            rules: Cell::new(1),
            instances: RefCell::new(vec![None; hosts]),
            shaken: RefCell::new(vec![0; hosts]),
            bound,
            operations: Cell::new(0),
            reading: Cell::new(0),
            resting: Cell::new(false),
            cuts: kind == Kind::Company && world.chance(60),
        })
    }

    fn hosts(&self) -> usize {
        self.settings.len()
    }

    /// Starts a new life of an instance, unless it lives.
    fn start(&self, host: usize) {
        if self.instance(host).is_some() {
            return;
        }
        let world = &self.world;
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&world.random().to_le_bytes());
        let slots = 1 << world.range(5, 10);
        let settings = self.settings[host];
        let epoch = Epoch(u128::from(world.random()));
        let coherence = Coherence::new(epoch, settings.secret.unwrap_or(secret), self.rules.get(), slots);
        let clock = self.clocks[host].clone();
        let log = Log::new(&self.redis, host, world.new_process(), clock, coherence, settings, &self.ledger);
        world.tell(|| format!("#{host} starts as {}", log.membership.me()));
        let exchange = Exchange::new(log, &self.ledger, &self.backend, self.rules.get(), self.manner);
        self.instances.borrow_mut()[host] = Some(exchange);
    }

    fn instance(&self, host: usize) -> Option<Rc<Exchange>> {
        self.instances.borrow()[host].clone()
    }

    fn shake(&self, host: usize) {
        self.shaken.borrow_mut()[host] += 1;
    }

    /// The whole schedule, then peace, then a look at what has become of it all.
    fn play(self: &Rc<Stage>) {
        let world = &self.world;
        world.tell(|| {
            let rates: Vec<_> = self.clocks.iter().map(|c| c.rate).collect();
            format!(
                "{:?}, {} instances (clocks at {rates:?} ‰), {:?}, {:?}, {:?}",
                self.kind,
                self.hosts(),
                self.settings[0],
                self.redis.weather.get(),
                self.manner
            )
        });
        for host in 0..self.hosts() {
            let stage = Rc::clone(self);
            world.after(world.range(0, self.lease / 2), move || stage.start(host));
        }
        let span = self.lease / 2 * world.range(3, 8);
        let begin = self.lease;
        for _ in 0..world.range(2, 4) {
            let stage = Rc::clone(self);
            let from = world.range(0, self.lease);
            world.spawn(OUTSIDE, async move { stage.client(from, begin + span).await });
        }
        if self.kind != Kind::Rough || world.chance(90) {
            for _ in 0..world.range(1, 5) {
                let stage = Rc::clone(self);
                world.after(world.range(self.lease / 2, begin + span), move || stage.fault());
            }
        }
        let start = world.now();
        world.run_until(start + begin + span);
        self.make_peace();
        let longest = self.settings.iter().map(|s| s.agreement.lease).max().unwrap_or_default();
        let patience = self.backend.pace.get().patience;
        // Who took leave starts again within one and a half leases, and evicts the dead after little more than one.
        let latest = world.now() + 7 * longest.as_micros() as u64 / 2 + patience - self.lease;
        while world.now() < latest && !self.is_calm() {
            world.run_until(world.now() + self.lease / 4);
        }
        self.look();
        let stage = Rc::clone(self);
        self.reading.set(self.reading.get() + 1);
        world.spawn(OUTSIDE, async move { stage.read_everything().await });
        let latest = world.now() + self.lease * 6;
        while self.reading.get() > 0 && world.now() < latest {
            world.run_until(world.now() + self.lease / 20);
        }
        if self.reading.get() > 0 {
            self.ledger.violate(UNANSWERED, format!("{} reads have no answer", self.reading.get()));
        }
    }

    /// A client: reads, now and then a mutation, and then reads where it would hurt.
    async fn client(self: Rc<Stage>, from: Micros, until: Micros) {
        let world = &self.world;
        Sleep::until(world, world.now() + from).await;
        let start = world.now() - from;
        let eager = world.range(1, 3);
        while world.now() < start + until {
            Sleep::until(world, world.now() + world.range(0, self.lease / 2 / eager)).await;
            self.operations.set(self.operations.get() + 1);
            let host = world.range(0, self.hosts() as u64 - 1) as usize;
            let mutates = match self.kind {
                Kind::Mulling | Kind::Severed => 30,
                _ => 12,
            };
            if world.chance(mutates) {
                self.mutate(host).await;
                self.disturb();
                for _ in 0..world.range(1, 4) {
                    let host = world.range(0, self.hosts() as u64 - 1) as usize;
                    self.read(host).await;
                }
            } else {
                self.read(host).await;
            }
        }
    }

    fn key(&self) -> Key {
        let thing = self.world.range(0, THINGS as u64 - 1) as usize;
        let subject = if thing < ITEMS { self.world.range(0, 1) as u8 } else { 0 };
        Key { thing, subject, secret: 0 }
    }

    async fn read(self: &Rc<Stage>, host: usize) {
        // Also of one that takes its leave: connections outlive listeners.
        let Some(exchange) = self.instance(host) else { return };
        let (key, began, shaken) = (self.key(), self.world.now(), self.shaken.borrow()[host]);
        let (done, answered) = oneshot::channel();
        let pid = exchange.log.pid;
        self.world.spawn(pid, async move {
            let _ = done.send(exchange.read(key, None).await);
        });
        self.reading.set(self.reading.get() + 1);
        let how = answered.await.ok().flatten();
        self.reading.set(self.reading.get() - 1);
        let took = self.world.now() - began;
        // Who fetches by itself waits for the backend as long as that takes; nobody waits so long for another.
        let waited_for_another = how.is_some_and(|how| how.starts_with("followed"));
        let stuck = if waited_for_another { 0 } else { self.backend.pace.get().stuck_way };
        let bound = self.bound + stuck;
        if took > bound && self.shaken.borrow()[host] == shaken {
            self.ledger.violate(UNANSWERED, format!("#{host} took {took} µs for {key:?}, bound {bound}"));
        }
    }

    /// What settles is put to the test while it does.
    fn disturb(self: &Rc<Stage>) {
        if self.kind == Kind::Lagging && !self.resting.get() {
            match self.world.range(0, 9) {
                0..=2 => self.freeze_redis(),
                3..=6 => self.reload_within(self.lease / 8),
                _ => {}
            }
        }
    }

    async fn mutate(self: &Rc<Stage>, host: usize) {
        let world = &self.world;
        let Some(exchange) = self.instance(host).filter(|e| !e.draining.get()) else { return };
        let (item, group) = (world.range(0, ITEMS as u64 - 1), world.range(0, GROUPS as u64 - 1));
        let fate = match world.range(0, 99) {
            0..=39 if self.kind == Kind::Mulling => Fate::Silent,
            0..=69 => Fate::Done,
            70..=76 => Fate::Refused,
            77..=82 => Fate::Conflict,
            83..=88 => Fate::Fails,
            89..=91 => Fate::FailsEarly,
            92..=97 => Fate::Silent,
            _ => Fate::NeverSent,
        };
        let (done, answered) = oneshot::channel();
        let pid = exchange.log.pid;
        let leaves = world.chance(5);
        let cancelled = leaves && self.settings[host].sabotage == Some(Sabotage::ClientsCancelMutations);
        let after = world.range(0, 10_000);
        let clock = self.clocks[host].clone();
        world.spawn(pid, async move {
            let work = exchange.mutate(item as usize, group as usize, fate);
            if cancelled {
                clock.timeout(Duration::from_micros(after), work).await;
            } else {
                work.await;
            }
            let _ = done.send(());
        });
        if leaves {
            self.ledger.count("clients that left a mutation");
            Sleep::until(world, world.now() + after).await;
        } else {
            let _ = answered.await;
        }
    }

    // ── Faults ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn fault(self: &Rc<Stage>) {
        if self.resting.get() {
            return;
        }
        let world = &self.world;
        let host = world.range(0, self.hosts() as u64 - 1) as usize;
        match self.kind {
            // Who never saw what the namespace had agreed on before the log was lost cannot wait for those leases.
            Kind::Rough if !self.agrees() => match world.range(0, 4) {
                0 => self.crash(host),
                1 => self.leave(host),
                2 => self.cut(host),
                3 => self.freeze(host),
                _ => self.freeze_redis(),
            },
            Kind::Lagging => match world.range(0, 9) {
                0 | 1 => self.reload(),
                2 | 3 => self.freeze_redis(),
                4 | 5 => self.cut(host),
                6 => self.crash(host),
                7 => self.freeze(host),
                8 => self.crash_redis(),
                _ => self.leave(host),
            },
            Kind::Severed => match world.range(0, 7) {
                0..=1 => self.cut_for(host, self.lease + self.while_()),
                2..=3 => {
                    let time = self.lease + self.while_();
                    self.cut_for(host, time);
                    let stage = Rc::clone(self);
                    world.after(world.range(self.lease / 2, time), move || {
                        if !stage.resting.get() {
                            stage.flush();
                        }
                    });
                }
                4 => self.freeze_redis(),
                5 => self.crash_redis(),
                6 => self.flush(),
                _ => self.purge(host),
            },
            Kind::Mulling => match world.range(0, 6) {
                0..=2 => {
                    self.flush();
                    let stage = Rc::clone(self);
                    world.after(world.range(self.lease, self.lease * 2), move || {
                        if !stage.resting.get() {
                            stage.crash(host);
                        }
                    });
                }
                3 => self.leave(host),
                4 => self.crash(host),
                5 => self.cut(host),
                _ => self.freeze(host),
            },
            Kind::Rough => match world.range(0, 14) {
                0 | 1 => self.crash(host),
                2 => self.leave(host),
                3 | 4 => self.freeze(host),
                5 | 6 => self.cut(host),
                7 => self.crash_redis(),
                8 => self.freeze_redis(),
                9 => self.flush(),
                10 => self.fail_over(),
                11 => self.reload(),
                12 => self.spoil(),
                13 => self.trim(host),
                _ => self.purge(host),
            },
            Kind::Alone => match world.range(0, 9) {
                0 => self.crash(host),
                1 => self.leave(host),
                2 => self.freeze(host),
                3 | 4 => self.cut(host),
                5 => self.crash_redis(),
                6 => self.freeze_redis(),
                7 => self.flush(),
                8 => self.reload(),
                _ => self.purge(host),
            },
            Kind::Forward => match world.range(0, 9) {
                8..=9 => {
                    let time = self.while_();
                    self.crash_for(host, time);
                    let stage = Rc::clone(self);
                    let after = time + world.range(self.lease / 20, self.lease / 4);
                    world.after(after, move || {
                        if !stage.resting.get() {
                            stage.crash_redis();
                        }
                    });
                }
                0..=2 => self.crash_redis(),
                3 => self.flush(),
                4 => self.crash(host),
                5 => self.freeze(host),
                6 => self.reload(),
                _ => self.leave(host),
            },
            Kind::Company if self.cuts => {
                if world.chance(50) {
                    self.flush();
                }
                let stage = Rc::clone(self);
                world.after(world.range(0, self.lease / 2), move || {
                    if !stage.resting.get() {
                        stage.cut_for(0, stage.lease + stage.while_());
                    }
                });
            }
            Kind::Company => match world.range(0, 3) {
                0 | 1 => self.crash_redis(),
                2 => self.flush(),
                _ => self.purge(host),
            },
        }
    }

    /// For how long a fault lasts.
    fn while_(&self) -> Micros {
        self.world.range(self.lease / 20, self.lease * 3)
    }

    fn crash(self: &Rc<Stage>, host: usize) {
        self.crash_for(host, self.while_());
    }

    fn crash_for(self: &Rc<Stage>, host: usize, time: Micros) {
        let Some(exchange) = self.instance(host) else { return };
        if self.would_lose_debts(&exchange) {
            return;
        }
        self.ledger.count("instances crashed");
        if exchange.mutations() > 0 {
            self.ledger.count("instances crashed mid mutation");
        }
        self.world.tell(|| format!("#{host} CRASHES"));
        self.excuse(&exchange);
        self.bury(&exchange);
        let stage = Rc::clone(self);
        self.world.after(time, move || stage.start(host));
    }

    /// Whether there is something that only this process knows to be purged (a hole).
    fn would_lose_debts(&self, exchange: &Exchange) -> bool {
        self.settings[exchange.log.host].unreachable == UnreachableLog::Forward && exchange.log.waiting() > 0
    }

    fn bury(&self, exchange: &Rc<Exchange>) {
        self.shake(exchange.log.host);
        self.world.kill(exchange.log.pid);
        self.instances.borrow_mut()[exchange.log.host] = None;
    }

    /// What it leaves undone is purged by others, if it got as far as telling them.
    fn excuse(&self, exchange: &Rc<Exchange>) {
        let log = &exchange.log;
        for mutation in self.ledger.mutations.borrow_mut().iter_mut() {
            if mutation.owner == log.pid && !mutation.answered {
                let told = mutation.intent.is_some_and(|(member, id)| self.is_told(log, member, id));
                mutation.excused |= !told && !self.ought_to_be_told(log, mutation);
            }
        }
    }

    /// Whether the log should know of an open mutation: it did before the mutation was sent and is still the same, or
    /// its owner has since had time to tell it anew. What is told of the dead is appended when they are evicted, whose
    /// command may be long on its way.
    fn ought_to_be_told(&self, log: &Log, mutation: &Mutation) -> bool {
        let Some(sent) = mutation.sent else { return false };
        let (now, changed, view) = (self.world.now(), log.last_change.get(), log.coherence.view());
        let epoch = self.redis.with_primary(|db| db.field(&log.keys.state, "epoch"));
        let is_now =
            |of: Epoch| epoch.as_ref().is_some_and(|now| *now == format!("{:032x}", of.0).as_bytes());
        let evicted = self.ledger.evicted(log.membership.me().0).map_or(0, |at| at + self.lease * 2);
        let told = mutation.told_in.is_some_and(is_now) && evicted < sent;
        let told_again = is_now(view.epoch)
            && sent.max(changed) + self.lease / 2 < now
            && evicted < changed
            && log.is_idle();
        log.settings.unreachable == UnreachableLog::Refuse && (told || told_again)
    }

    fn is_told(&self, log: &Log, member: u64, id: u64) -> bool {
        let field = format!("{member:016x}:{id}");
        self.redis.with_primary(|db| db.field(&log.keys.intents, &field).is_some())
    }

    fn leave(self: &Rc<Stage>, host: usize) {
        let Some(exchange) = self.instance(host).filter(|e| !e.draining.get()) else { return };
        if exchange.log.waiting() > 0 {
            return;
        }
        self.ledger.count("instances left");
        let stage = Rc::clone(self);
        let pid = exchange.log.pid;
        self.world.spawn(pid, Rc::clone(&exchange).close());
        // Its process ends some time after.
        self.world.after(self.lease * 3 / 2, move || {
            let mine = stage.instance(host).is_some_and(|e| Rc::ptr_eq(&e, &exchange));
            let hasty = stage.settings[host].sabotage == Some(Sabotage::LeavesWithMutationsOpen);
            // Who starts in the middle of the last look has nothing to show yet.
            if !mine
                || stage.resting.get()
                || ((exchange.mutations() > 0 || stage.would_lose_debts(&exchange)) && !hasty)
            {
                return;
            }
            stage.bury(&exchange);
            stage.start(host);
        });
    }

    fn freeze(self: &Rc<Stage>, host: usize) {
        let Some(exchange) = self.instance(host) else { return };
        let time = self.while_();
        self.ledger.count(if time > self.lease {
            "instances frozen past their lease"
        } else {
            "instances frozen"
        });
        self.world.tell(|| format!("#{host} FREEZES for {time} µs"));
        self.shake(host);
        self.world.freeze(exchange.log.pid);
        let stage = Rc::clone(self);
        self.world.after(time, move || {
            stage.world.tell(|| format!("#{host} wakes"));
            stage.shake(host);
            stage.world.thaw(exchange.log.pid);
        });
    }

    /// Off at once, or after answers have been late for some time.
    fn cut(self: &Rc<Stage>, host: usize) {
        let time = self.while_();
        if self.world.chance(50) {
            return self.cut_for(host, time);
        }
        let late = self.world.range(self.lease / 10, self.lease * 45 / 100);
        self.world.tell(|| format!("answers to #{host} are {late} µs late"));
        self.redis.delay(host, late);
        let stage = Rc::clone(self);
        self.world.after(self.world.range(self.lease / 2, self.lease * 3 / 2), move || {
            stage.redis.delay(host, 0);
            if !stage.resting.get() {
                stage.cut_for(host, time);
            }
        });
    }

    fn cut_for(self: &Rc<Stage>, host: usize, time: Micros) {
        self.ledger.count("instances cut off");
        self.world.tell(|| format!("#{host} IS CUT OFF for {time} µs"));
        self.redis.cut(host);
        let stage = Rc::clone(self);
        self.world.after(time, move || {
            stage.world.tell(|| format!("#{host} is connected again"));
            stage.redis.mend(host);
        });
    }

    /// What dead owners had told is lost with the log.
    fn lose_intents(&self) {
        for mutation in self.ledger.mutations.borrow_mut().iter_mut() {
            mutation.excused |= self.world.is_dead(mutation.owner) && mutation.committed.is_none();
        }
    }

    fn crash_redis(self: &Rc<Stage>) {
        if !self.redis.is_up() {
            return;
        }
        let keep = self.world.chance(50);
        self.ledger.count(if keep { "Redis restarted" } else { "Redis lost all" });
        let time = self.while_();
        self.world.tell(|| {
            format!("REDIS CRASHES for {time} µs, its data is {}", if keep { "kept" } else { "lost" })
        });
        self.redis.crash();
        let stage = Rc::clone(self);
        self.world.after(time, move || {
            if !stage.redis.is_up() {
                stage.world.tell(|| "Redis starts".to_owned());
                stage.lose_intents();
                stage.redis.restart(keep);
            }
        });
    }

    fn freeze_redis(self: &Rc<Stage>) {
        self.ledger.count("Redis frozen");
        let time = self.while_();
        self.world.tell(|| format!("REDIS FREEZES for {time} µs"));
        self.redis.freeze();
        let redis = Rc::clone(&self.redis);
        self.world.after(time, move || redis.thaw());
    }

    fn flush(&self) {
        if self.redis.is_up() {
            self.ledger.count("Redis flushed");
            self.world.tell(|| "FLUSHALL".to_owned());
            self.lose_intents();
            self.redis.flush();
        }
    }

    fn fail_over(self: &Rc<Stage>) {
        if !self.redis.is_up() {
            return;
        }
        self.ledger.count("Redis failed over");
        let data = self.redis.replica();
        let stage = Rc::clone(self);
        let old_lives = self.world.chance(60);
        self.world.after(self.world.range(0, self.lease / 2), move || {
            stage.world.tell(|| {
                format!("REDIS FAILS OVER; the old primary {}", if old_lives { "lives" } else { "is gone" })
            });
            stage.lose_intents();
            stage.redis.fail_over(data, old_lives, stage.lease);
        });
    }

    /// Other rules, on all instances one after the other; or the first ones again.
    fn reload(self: &Rc<Stage>) {
        self.reload_within(self.lease);
    }

    fn reload_within(self: &Rc<Stage>, longest: Micros) {
        self.ledger.count("rules reloaded");
        self.rules.set(if self.world.chance(30) { 1 } else { self.rules.get() + 1 });
        for host in 0..self.hosts() {
            let stage = Rc::clone(self);
            self.world.after(self.world.range(0, longest), move || {
                if let Some(exchange) = stage.instance(host) {
                    stage.world.tell(|| format!("#{host} lives by rules {}", stage.rules.get()));
                    exchange.reload(stage.rules.get());
                }
            });
        }
    }

    /// Somebody writes where nobody should, or Redis evicts what it should not.
    fn spoil(&self) {
        let log = match self.instance(0) {
            Some(exchange) => Rc::clone(&exchange.log),
            None => return,
        };
        let keys = &log.keys;
        self.lose_intents();
        let which = self.world.range(0, 3);
        self.ledger.count("the log spoilt");
        self.world.tell(|| format!("THE LOG IS SPOILT ({which})"));
        match which {
            0 => self.redis.with_primary(|db| db.remove(&keys.stream)),
            1 => self.redis.with_primary(|db| db.remove(&keys.state)),
            2 => self.redis.with_primary(|db| self.interpreter.set_text(db, &keys.state)),
            _ => self.redis.with_primary(|db| self.interpreter.set_text(db, &keys.stream)),
        }
    }

    /// What an instance has not seen is cut off from the log's beginning.
    fn trim(self: &Rc<Stage>, host: usize) {
        let Some(exchange) = self.instance(host) else { return };
        let stream = exchange.log.keys.stream.clone();
        self.ledger.count("the log trimmed");
        let (time, left) = (self.while_(), self.world.range(0, 1).to_string());
        self.cut_for(host, time);
        let stage = Rc::clone(self);
        self.world.after(time / 2, move || stage.purge((host + 1) % stage.hosts()));
        let stage = Rc::clone(self);
        self.world.after(time - 1, move || stage.command(&["XTRIM", &stream, "MAXLEN", &left]));
    }

    fn command(&self, args: &[&str]) {
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let _ = self.redis.with_primary(|db| self.interpreter.call(db, self.world.now() / 1000, &args));
    }

    /// A purge that no mutation asked for: from the admin API or from outside.
    fn purge(self: &Rc<Stage>, host: usize) {
        let Some(exchange) = self.instance(host) else { return };
        if self.world.chance(30) {
            self.ledger.count("purges from outside");
            let inbox = exchange.log.keys.inbox.clone();
            self.command(&["XADD", &inbox, "*", "tag", "1|group:0"]);
            return;
        }
        let event = if self.world.chance(70) {
            self.ledger.count("soft purges");
            let names = vec![format!("{}|group:?", self.rules.get()), format!("{}|item:?", self.rules.get())];
            Event { kind: EventKind::Soft, names, ..Event::default() }
        } else {
            self.ledger.count("flushes");
            Event::flush()
        };
        let pid = exchange.log.pid;
        self.world.spawn(pid, async move {
            exchange.publish(event, None).await;
        });
    }

    // ── Peace ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn make_peace(self: &Rc<Stage>) {
        self.world.tell(|| "PEACE".to_owned());
        self.resting.set(true);
        self.redis.weather.set(Weather { way: 500, ..Weather::default() });
        let pace = self.backend.pace.get();
        self.backend.pace.set(Pace { way: 500, slow: 0, stuck: 0, broken: 0, etags: 100, ..pace });
        if !self.redis.is_up() {
            self.lose_intents();
            self.redis.restart(true);
        }
        self.redis.thaw();
        for host in 0..self.hosts() {
            self.redis.mend(host);
            self.redis.delay(host, 0);
            match self.instance(host) {
                Some(exchange) => self.world.thaw(exchange.log.pid),
                None => self.start(host),
            }
        }
        self.redis.with_primary(|db| db.set("keep", mlua::Nil));
    }

    /// Whether an instance may take part at all.
    fn agrees(&self) -> bool {
        self.settings.iter().all(|s| s.agreement == self.settings[0].agreement)
    }

    /// Nothing is left to be waited for.
    fn is_calm(&self) -> bool {
        let instances: Vec<_> = (0..self.hosts()).filter_map(|host| self.instance(host)).collect();
        let log = &instances[0].log;
        let registered = self.redis.with_primary(|db| db.fields(&log.keys.members));
        let end = self.redis.with_primary(|db| db.field(&log.keys.state, "seq"));
        let epoch = self.redis.with_primary(|db| db.field(&log.keys.state, "epoch"));
        // What a log was before a failover is nobody's any more, though nobody has noticed yet.
        let run_id = self.redis.with_primary(|db| db.field(&log.keys.state, "run_id"));
        let is_its_own = self.redis.with_primary(|db| run_id.is_some_and(|of| of == db.run_id().as_bytes()));
        self.agrees()
            && self.kind != Kind::Lagging
            && is_its_own
            && registered == instances.len()
            && self.redis.with_primary(|db| db.fields(&log.keys.intents)) == 0
            && instances.iter().all(|exchange| {
                let log = &exchange.log;
                let held = log.coherence.holds_lease(log.clock.elapsed());
                let applied = log.applied().to_string();
                let entered = format!("{:032x}", log.coherence.view().epoch.0);
                let level = end.as_ref().is_some_and(|end| *end == applied.as_bytes())
                    && epoch.as_ref().is_some_and(|epoch| *epoch == entered.as_bytes());
                held && level && log.waiting() == 0 && exchange.mutations() == 0 && !exchange.draining.get()
            })
    }

    /// After some time of peace: leases are held, mutations answered.
    fn look(&self) {
        for host in 0..self.hosts() {
            let Some(exchange) = self.instance(host).filter(|e| !e.draining.get()) else { continue };
            let log = &exchange.log;
            if self.agrees() && !log.coherence.holds_lease(log.clock.elapsed()) {
                self.ledger.violate(BACK, format!("#{host} holds no lease"));
            }
            // What settles is purged again whenever it has.
            let waiting = log.waiting() > 0 && self.kind != Kind::Lagging;
            if waiting || log.coherence.owed() > 0 {
                self.ledger.violate(BACK, format!("#{host} still owes purges"));
            }
            if exchange.mutations() > 0 {
                self.ledger.violate(UNANSWERED, format!("#{host} has not answered its mutations"));
            }
        }
        self.ledger.coverage.borrow_mut().0.entry("operations").or_insert(self.operations.get());
    }

    /// Everything is read everywhere: it must be what was committed last, and be kept.
    async fn read_everything(self: Rc<Stage>) {
        let required = Some((self.ledger.at_rest(), FORGOTTEN));
        for host in 0..self.hosts() {
            let Some(exchange) = self.instance(host).filter(|e| !e.draining.get()) else { continue };
            for thing in [0, 1, ITEMS, ITEMS + 1, EVERYTHING] {
                let key = Key { thing, subject: 0, secret: 0 };
                // A purge that was long on its way may still come between two reads.
                let mut how = None;
                for read in 0..4 {
                    let exchange = Rc::clone(&exchange);
                    let (done, answered) = oneshot::channel();
                    let pid = exchange.log.pid;
                    self.world.spawn(pid, async move {
                        let _ = done.send(exchange.read(key, required).await);
                    });
                    how = answered.await.ok().flatten();
                    if read > 0 && how.is_some_and(|how| !matches!(how, "fetched" | "failed" | "lost")) {
                        break;
                    }
                }
                let kept = how.is_some_and(|how| !matches!(how, "fetched" | "failed" | "lost"));
                if !kept && self.agrees() && self.kind != Kind::Lagging {
                    self.ledger.violate(BACK, format!("#{host} does not keep {key:?}: {how:?}"));
                }
            }
        }
        self.reading.set(self.reading.get() - 1);
    }
}

fn weather(world: &Rc<World>, kind: Kind, lease: Micros) -> Weather {
    let way = world.range(200, 5_000);
    let calm = Weather { way, slow_way: lease * 3 / 2, ..Weather::default() };
    match kind {
        Kind::Rough | Kind::Alone if world.chance(50) => Weather {
            lost: world.range(0, 4),
            answer_lost: world.range(0, 4),
            reset: world.range(0, 4),
            answer_reset: world.range(0, 4),
            slow: world.range(0, 8),
            ..calm
        },
        _ => calm,
    }
}
