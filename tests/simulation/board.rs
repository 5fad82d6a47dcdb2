//! Flights, as `exchange::coalesce` has them: one fetch for all who want the same thing at the same time.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Semaphore;
use weir::coherence::{Coherence, Liveness, Stamp, Void};
use weir::policy::tags::Tag;

use crate::exchange::{Entry, Key};
use crate::ledger::{FLIGHTS, Ledger};
use crate::sabotage::Sabotage;
use crate::world::{Clock, Signal};

/// `coalesce::Landing`.
#[derive(Clone)]
pub enum Landing {
    Stored(Rc<Entry>),
    Failed,
}

/// `coalesce::Flight`.
pub struct Flight {
    departure: OnceCell<Departure>,
    cleared: Semaphore,
    landing: RefCell<Option<Landing>>,
    landed: Signal,
}

/// `coalesce::Departure`.
#[derive(Clone)]
pub struct Departure {
    pub stamp: Stamp,
    pub tags: Vec<Tag>,
    pub began: Duration,
}

impl Flight {
    fn new() -> Rc<Flight> {
        Rc::new(Flight {
            departure: OnceCell::new(),
            cleared: Semaphore::new(0),
            landing: RefCell::default(),
            landed: Signal::default(),
        })
    }

    async fn landed(&self) -> Option<Landing> {
        self.landed.changed(0).await;
        self.landing.borrow().clone()
    }
}

/// `coalesce::Seat`.
pub enum Seat {
    Lead(Lead),
    Aboard(Passenger),
}

/// `coalesce::Lead`.
pub struct Lead {
    board: Option<(Rc<Board>, Key)>,
    flight: Rc<Flight>,
    pub departure: Departure,
}

/// `coalesce::Passenger`.
pub struct Passenger {
    flight: Rc<Flight>,
    pub after_arrival: bool,
    waits_at: Option<(Rc<Board>, Key)>,
}

/// `coalesce::Arrival`.
pub enum Arrival {
    Landed(Option<Landing>),
    Leads(Lead),
}

/// `coalesce::Gate`.
#[derive(Default)]
struct Gate {
    flying: Option<Rc<Flight>>,
    next: Option<(Rc<Flight>, Cell<usize>)>,
}

/// `coalesce::Board`.
pub struct Board {
    clock: Clock,
    ledger: Rc<Ledger>,
    sabotage: Option<Sabotage>,
    gates: RefCell<BTreeMap<Key, Gate>>,
}

impl Board {
    pub fn new(clock: Clock, ledger: &Rc<Ledger>, sabotage: Option<Sabotage>) -> Rc<Board> {
        Rc::new(Board { clock, ledger: Rc::clone(ledger), sabotage, gates: RefCell::default() })
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// `Board::join`.
    pub fn join(
        self: &Rc<Self>,
        key: Key,
        arrived: Duration,
        tags: impl FnOnce() -> Vec<Tag>,
        coherence: &Coherence,
    ) -> Seat {
        let mut gates = self.gates.borrow_mut();
        let gate = gates.entry(key).or_default();
        let departed = gate.flying.as_ref().and_then(|f| f.departure.get().zip(Some(f)));
        match departed {
            Some((departure, flight)) if !self.is(Sabotage::FliesTwice) => {
                let after_arrival = departure.began > arrived || self.is(Sabotage::FollowsAnyFlight);
                let mut liveness = coherence.reusable(&departure.stamp, &departure.tags, arrived);
                if liveness == Liveness::Void(Void::Lease) && self.is(Sabotage::FollowsWithoutLease) {
                    liveness = coherence.liveness(&departure.stamp, &departure.tags);
                }
                if after_arrival || liveness == Liveness::Live {
                    let flight = Rc::clone(flight);
                    return Seat::Aboard(Passenger { flight, after_arrival, waits_at: None });
                }
                if liveness == Liveness::Void(Void::Lease) {
                    return Seat::Aboard(self.sit_down(gate, key));
                }
            }
            None if gate.next.is_some() => return Seat::Aboard(self.sit_down(gate, key)),
            _ => {}
        }
        Seat::Lead(self.take_off(gate, key, tags, coherence))
    }

    /// `Board::begin`.
    pub fn begin(
        self: &Rc<Self>,
        key: Key,
        tags: impl FnOnce() -> Vec<Tag>,
        coherence: &Coherence,
    ) -> Option<Lead> {
        let mut gates = self.gates.borrow_mut();
        (!gates.contains_key(&key))
            .then(|| self.take_off(gates.entry(key).or_default(), key, tags, coherence))
    }

    /// `Board::sit_down`.
    fn sit_down(self: &Rc<Self>, gate: &mut Gate, key: Key) -> Passenger {
        self.ledger.count("waited for the next flight");
        let (flight, seats) = gate.next.get_or_insert_with(|| (Flight::new(), Cell::new(0)));
        seats.set(seats.get() + 1);
        Passenger { flight: Rc::clone(flight), after_arrival: true, waits_at: Some((Rc::clone(self), key)) }
    }

    /// `Board::take_off`. At most one flight that anybody may board is in the air.
    fn take_off(
        self: &Rc<Self>,
        gate: &mut Gate,
        key: Key,
        tags: impl FnOnce() -> Vec<Tag>,
        coherence: &Coherence,
    ) -> Lead {
        let departure = self.departure(tags, coherence);
        let flight = gate.next.take().map_or_else(Flight::new, |(flight, _)| flight);
        if let Some(old) = gate.flying.replace(Rc::clone(&flight))
            && let Some(before) = old.departure.get()
            && coherence.liveness(&before.stamp, &before.tags) == Liveness::Live
        {
            self.ledger.violate(FLIGHTS, format!("{key:?} takes off twice"));
        }
        Lead::new(Some((Rc::clone(self), key)), flight, departure)
    }

    fn departure(&self, tags: impl FnOnce() -> Vec<Tag>, coherence: &Coherence) -> Departure {
        let stamp = coherence.sample();
        let tags = tags();
        Departure { stamp, tags, began: self.clock.elapsed() }
    }

    /// `Board::alone`.
    pub fn alone(&self, coherence: &Coherence) -> Lead {
        Lead::new(None, Flight::new(), self.departure(Vec::new, coherence))
    }

    /// `Board::clear`.
    fn clear(&self, key: Key, landed: &Rc<Flight>) {
        let mut gates = self.gates.borrow_mut();
        let Some(gate) = gates.get_mut(&key) else { return };
        if gate.flying.as_ref().is_some_and(|flying| Rc::ptr_eq(flying, landed)) {
            gate.flying = None;
            match &gate.next {
                Some((next, _)) => next.cleared.add_permits(1),
                None => drop(gates.remove(&key)),
            }
        }
    }

    /// `Board::leave`.
    fn leave(&self, key: Key, left: &Rc<Flight>) {
        let mut gates = self.gates.borrow_mut();
        let Some(gate) = gates.get_mut(&key) else { return };
        let Some((_, seats)) = gate.next.as_ref().filter(|(next, _)| Rc::ptr_eq(next, left)) else { return };
        seats.set(seats.get() - 1);
        if seats.get() == 0 {
            gate.next = None;
            if gate.flying.is_none() {
                gates.remove(&key);
            }
        }
    }
}

impl Passenger {
    /// `Passenger::fly`.
    pub async fn fly(mut self, tags: impl FnOnce() -> Vec<Tag>, coherence: &Coherence) -> Arrival {
        let flight = Rc::clone(&self.flight);
        let landed = std::pin::pin!(flight.landed());
        let cleared = std::pin::pin!(flight.cleared.acquire());
        match select(landed, cleared).await {
            Either::Left((landing, _)) => Arrival::Landed(landing),
            Either::Right((Ok(permit), _)) => {
                permit.forget();
                match self.waits_at.take() {
                    Some((board, key)) => {
                        let mut gates = board.gates.borrow_mut();
                        Arrival::Leads(board.take_off(gates.entry(key).or_default(), key, tags, coherence))
                    }
                    None => Arrival::Landed(None),
                }
            }
            Either::Right((Err(_), _)) => Arrival::Landed(None),
        }
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        if let Some((board, key)) = self.waits_at.take() {
            board.leave(key, &self.flight);
        }
    }
}

impl Lead {
    fn new(board: Option<(Rc<Board>, Key)>, flight: Rc<Flight>, departure: Departure) -> Lead {
        let _ = flight.departure.set(departure.clone());
        Lead { board, flight, departure }
    }

    /// `Lead::land`.
    pub fn land(&mut self, landing: Option<Landing>) {
        if let Some((board, key)) = self.board.take() {
            board.clear(key, &self.flight);
        }
        if self.flight.landed.version() == 0 {
            self.flight.landing.replace(landing);
            self.flight.landed.raise();
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.land(None);
    }
}
