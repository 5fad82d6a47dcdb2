//! Breakers, one for each part of Redis that can fail by itself.
//!
//! One server has one lane. A cluster has sixteen, each for as many neighbouring slots: nodes mostly own neighbouring
//! slots, so a node that freezes closes its own lanes, and of the others' at most those at its edges. Which node that is, nobody here
//! needs to know: a lane is probed with a key that failed in it, and so it opens again wherever its slots have gone.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::breaker::Breaker;

/// Lanes of a cluster.
const LANES: usize = 16;
/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// All of them.
#[derive(Debug)]
pub struct Lanes(Box<[Lane]>);

/// One breaker, and how to probe what it protects.
#[derive(Debug, Default)]
pub struct Lane {
    /// Whether operations are tried.
    pub breaker: Breaker,
    /// Wakes the prober.
    pub opened: Notify,
    /// The key whose operation failed last.
    pub failed: Mutex<Vec<u8>>,
}

impl Lanes {
    /// For one server, or a cluster.
    pub fn new(cluster: bool) -> Lanes {
        let count = if cluster { LANES } else { 1 };
        Lanes((0..count).map(|_| Lane::default()).collect())
    }

    /// The lane of a key. `None` = of no key: in a cluster that is no lane's business.
    pub fn of(&self, key: Option<&[u8]>) -> Option<&Lane> {
        match (self.0.len(), key) {
            (1, _) => self.0.first(),
            (lanes, Some(key)) => self.0.get(usize::from(slot(key)) * lanes / SLOTS),
            (_, None) => None,
        }
    }

    /// Every lane.
    pub fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter()
    }

    /// Whether anything is tried at all.
    pub fn any_closed(&self) -> bool {
        self.iter().any(|lane| lane.breaker.is_closed())
    }

    /// How often the only one has opened; a cluster's connection outlives that.
    pub fn generation(&self) -> u64 {
        if let [lane] = &self.0[..] { lane.breaker.generation() } else { 0 }
    }

    /// The worst of their states: `closed`, `half-open`, `open`.
    pub fn name(&self) -> &'static str {
        let names = || self.iter().map(|lane| lane.breaker.name());
        ["open", "half-open"].into_iter().find(|name| names().any(|n| n == *name)).unwrap_or("closed")
    }
}

/// The slot of a key without braces: CRC-16/XMODEM, as the cluster specification has it.
fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0u16, |crc, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % 16_384
}

const CRC: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use redis::cluster_routing::Slot;

    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster() {
        assert_eq!([slot(b"123456789"), slot(b"a"), slot(b"cache:log")], [12_739, 15_495, 12_638]);
        for n in 0..500 {
            let key = format!("cache:route-{n}:{n:064x}");
            assert_eq!(Slot::new(slot(key.as_bytes())), Some(Slot::for_key(&key)), "{key}");
        }
    }

    #[test]
    fn one_lane_fails_and_the_others_do_not() {
        let lanes = Lanes::new(true);
        let (a, b) = (lanes.of(Some(b"a")).unwrap(), lanes.of(Some(b"b")).unwrap());
        while !a.breaker.failed() {}
        assert!(!a.breaker.is_closed() && b.breaker.is_closed() && lanes.any_closed());
        assert_eq!((lanes.name(), lanes.generation()), ("open", 0));
        assert!(lanes.of(None).is_none());
        for lane in lanes.iter() {
            while lane.breaker.is_closed() {
                lane.breaker.failed();
            }
        }
        assert!(!lanes.any_closed());
    }

    #[test]
    fn one_server_has_one_lane() {
        let lanes = Lanes::new(false);
        assert!(std::ptr::eq(lanes.of(None).unwrap(), lanes.of(Some(b"a")).unwrap()));
        while !lanes.of(None).unwrap().breaker.failed() {}
        assert_eq!((lanes.name(), lanes.generation(), lanes.any_closed()), ("open", 1, false));
    }
}
