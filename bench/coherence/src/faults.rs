//! What is broken, one thing at a time: broken, mended, then a pause, then the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::arguments::Fault;
use crate::load::{Knock, Scene, watch};
use crate::random::Random;
use crate::rig::forward::{Forwarder, Way};
use crate::rig::process::Process;
use crate::rig::redis::{Redis, Sentinels, command};
use crate::rig::weir::Weir;
use crate::rig::{Outcome, START, until};
use crate::tally::Tally;

/// Reads sent to an instance while it is frozen.
const WATCHERS: u64 = 60;

/// What can be broken.
#[derive(Debug)]
pub struct Breakable {
    /// Redis.
    pub store: Store,
    /// The Weirs.
    pub weirs: Vec<Weir>,
    /// Each Weir's way to Redis; none with sentinels.
    pub forwarders: Vec<Forwarder>,
    /// Their lease.
    pub lease: Duration,
}

/// The Redis of a run.
#[derive(Debug)]
pub enum Store {
    /// None.
    None,
    /// One server.
    Single(Redis),
    /// A primary with replicas and sentinels.
    Sentinels(Sentinels),
}

impl Store {
    /// The server that is written to.
    pub async fn primary(&self) -> Outcome<&Redis> {
        match self {
            Store::None => Err("there is no Redis to break".to_owned()),
            Store::Single(redis) => Ok(redis),
            Store::Sentinels(sentinels) => sentinels.primary().await,
        }
    }
}

/// Breaks `plan` in turn until `enough` is set; returns what the watchers of frozen Weirs counted, and how often
/// something was broken.
pub async fn run(
    scene: Arc<Scene>,
    rig: Arc<Breakable>,
    plan: Vec<Fault>,
    every: Duration,
    enough: Arc<AtomicBool>,
) -> Outcome<(Tally, u64)> {
    let mut random = scene.random(6 << 40);
    let mut tally = Tally::new(scene.doors.len());
    let mut count = 0;
    loop {
        let pause = random.between(every.mul_f64(0.7), every.mul_f64(1.3));
        if waited_out(pause, &enough).await {
            return Ok((tally, count));
        }
        let fault = plan[count as usize % plan.len()];
        count += u64::from(fault != Fault::None);
        let mut breaking = Breaking { scene: &scene, rig: &rig, random: &mut random, number: count };
        breaking.act(fault, &mut tally).await?;
    }
}

/// Waits; true as soon as it is enough.
async fn waited_out(pause: Duration, enough: &AtomicBool) -> bool {
    let end = tokio::time::Instant::now() + pause;
    while tokio::time::Instant::now() < end {
        if enough.load(Ordering::Relaxed) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    enough.load(Ordering::Relaxed)
}

struct Breaking<'a> {
    scene: &'a Arc<Scene>,
    rig: &'a Breakable,
    random: &'a mut Random,
    number: u64,
}

impl Breaking<'_> {
    async fn act(&mut self, fault: Fault, tally: &mut Tally) -> Outcome<()> {
        match fault {
            Fault::None => Ok(()),
            Fault::Kill => self.kill().await,
            Fault::Freeze => self.freeze().await,
            Fault::Flush => self.flush().await,
            Fault::Failover => self.failover().await,
            Fault::Cut => self.cut().await,
            Fault::Stop => {
                let counted = self.stop().await?;
                tally.add(&counted);
                Ok(())
            }
        }
    }

    fn say(&self, what: String) {
        self.scene.note_down(what);
    }

    async fn wait(&mut self, from: u64, to: u64) -> Duration {
        let time = self.random.between(Duration::from_millis(from), Duration::from_millis(to));
        tokio::time::sleep(time).await;
        time
    }

    async fn kill(&mut self) -> Outcome<()> {
        if let Store::Sentinels(sentinels) = &self.rig.store {
            self.say("the primary is killed".to_owned());
            sentinels.depose().await?;
            return self.in_step(sentinels).await;
        }
        let redis = self.rig.store.primary().await?;
        self.say("Redis is killed".to_owned());
        redis.process().kill();
        self.wait(300, 700).await;
        redis.restart(&[]).await?;
        self.say("Redis is back, empty".to_owned());
        Ok(())
    }

    async fn freeze(&mut self) -> Outcome<()> {
        let redis = self.rig.store.primary().await?;
        self.say("Redis is frozen".to_owned());
        redis.process().freeze()?;
        let time = self.wait(300, 3000).await;
        redis.process().thaw()?;
        self.say(format!("Redis thaws after {time:.1?}"));
        match &self.rig.store {
            Store::Sentinels(sentinels) => self.in_step(sentinels).await,
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> Outcome<()> {
        let redis = self.rig.store.primary().await?;
        self.say("FLUSHALL".to_owned());
        command(redis.address(), &["FLUSHALL"]).await.map(drop)
    }

    async fn failover(&mut self) -> Outcome<()> {
        let Store::Sentinels(sentinels) = &self.rig.store else {
            return Err("failover without sentinels".to_owned());
        };
        if self.random.chance(0.5) {
            self.say("a failover is ordered".to_owned());
            sentinels.switch().await?;
        } else {
            self.say("the primary is killed".to_owned());
            sentinels.depose().await?;
        }
        self.in_step(sentinels).await
    }

    async fn in_step(&mut self, sentinels: &Sentinels) -> Outcome<()> {
        until("the replicas follow again", START * 3, || sentinels.settled()).await?;
        self.say("the replicas follow again".to_owned());
        Ok(())
    }

    /// Of a random length, some shorter and some longer than the lease.
    async fn cut(&mut self) -> Outcome<()> {
        let one = self.random.below(self.rig.forwarders.len());
        let forwarder = self.rig.forwarders.get(one).ok_or("there is no forwarder to cut")?;
        let way = if self.random.chance(0.5) { Way::Silent } else { Way::Refused };
        let name = &self.scene.doors[one].name;
        self.say(format!("{name} is cut off from Redis ({way:?})"));
        forwarder.set(way);
        let lease = u64::try_from(self.rig.lease.as_millis()).unwrap_or(u64::MAX);
        let time = self.wait(lease / 4, lease * 5 / 2).await;
        forwarder.set(Way::Open);
        self.say(format!("{name} reaches Redis again after {time:.1?}"));
        Ok(())
    }

    /// Longer than the lease, with clients that knock meanwhile.
    async fn stop(&mut self) -> Outcome<Tally> {
        let one = self.random.below(self.rig.weirs.len());
        let (scene, door) = (self.scene, &self.scene.doors[one]);
        let time = self.random.between(self.rig.lease.mul_f64(1.2), self.rig.lease.mul_f64(2.2));
        let mut watchers = JoinSet::new();
        for n in 0..WATCHERS {
            let knock = match n % 20 {
                0 => Knock::Mutation,
                n if n % 2 == 0 => Knock::Read,
                _ => Knock::NewRead,
            };
            let (wait, number) = (self.random.between(Duration::ZERO, time), self.number * WATCHERS + n);
            watchers.spawn(watch(Arc::clone(scene), one, knock, wait, number));
        }
        door.closed.store(true, Ordering::Relaxed);
        self.say(format!("{} is frozen", door.name));
        let process: &Process = &self.rig.weirs[one].process;
        process.freeze()?;
        tokio::time::sleep(time).await;
        // Clients come back a moment before it wakes: it finds their requests, too.
        door.closed.store(false, Ordering::Relaxed);
        process.thaw()?;
        self.say(format!("{} wakes after {time:.1?}", door.name));
        let mut tally = Tally::new(scene.doors.len());
        while let Some(counted) = watchers.join_next().await {
            tally.add(&counted.map_err(|error| format!("a watcher: {error}"))?);
        }
        Ok(tally)
    }
}
