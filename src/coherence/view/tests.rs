//! Each guard of the view, one by one, and the whole against a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

const E: Epoch = Epoch(1);

fn coherence() -> Coherence {
    Coherence::new(E, [7; 32], 10, 1 << 10)
}

fn purge(tags: &[u64]) -> Event {
    Event { tags: tags.iter().map(|t| Tag(*t)).collect(), rules: 10, ..Event::default() }
}

fn owed(tags: &[u64], id: u64) -> Arc<Event> {
    Arc::new(Event { origin: 5, id, ..purge(tags) })
}

fn live(c: &Coherence, stamp: &Stamp, tags: &[u64]) -> Liveness {
    c.liveness(stamp, &tags.iter().map(|t| Tag(*t)).collect::<Vec<_>>())
}

#[test]
fn a_purge_voids_what_was_sampled_before_it_and_nothing_else() {
    let c = coherence();
    let before = c.sample();
    assert!(c.apply(E, 1, &purge(&[3])));
    assert_eq!(live(&c, &before, &[3]), Liveness::Void(Void::Purged));
    assert_eq!(live(&c, &before, &[4]), Liveness::Live);
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Live);
}

#[test]
fn voids_are_told_from_collisions_of_marks() {
    let c = coherence();
    let before = c.sample();
    c.apply(E, 1, &purge(&[3]));
    c.apply(E, 2, &Event { kind: EventKind::Soft, ..purge(&[5]) });
    // With 1 << 10 slots, tag 3 + 1024 shares its mark with tag 3, which is the one that was purged.
    let purged = Liveness::Void(Void::Purged);
    c.count(purged, &before, &[Tag(3)]);
    assert_eq!(c.tally().falsely(), 0);
    c.count(purged, &before, &[Tag(3 + 1024)]);
    c.count(Liveness::Stale, &before, &[Tag(5 + 1024)]);
    c.count(Liveness::Void(Void::Floor), &before, &[Tag(3 + 1024)]);
    assert_eq!(c.tally().falsely(), 2);
    assert!(c.tally().reasons().any(|counted| counted == ("purged", 2)));
}

#[test]
fn an_event_is_applied_once_and_in_its_epoch_only() {
    let c = coherence();
    assert!(c.apply(E, 1, &purge(&[3])));
    assert!(!c.apply(E, 1, &purge(&[4])));
    assert!(!c.apply(Epoch(2), 2, &purge(&[4])));
    assert_eq!(c.sample().seq, 1);
}

#[test]
fn a_gap_raises_the_floor() {
    let c = coherence();
    let before = c.sample();
    assert!(c.apply(E, 3, &purge(&[])));
    assert_eq!(live(&c, &before, &[9]), Liveness::Void(Void::Floor));
    assert_eq!(c.sample().seq, 3);
    assert_eq!(live(&c, &c.sample(), &[9]), Liveness::Live);
}

#[test]
fn a_flush_raises_the_floor() {
    let c = coherence();
    let before = c.sample();
    c.apply(E, 1, &Event::flush());
    assert_eq!(live(&c, &before, &[]), Liveness::Void(Void::Floor));
    assert_eq!(live(&c, &c.sample(), &[]), Liveness::Live);
}

#[test]
fn an_event_of_other_rules_or_another_secret_purges_everything() {
    let other_rules = Event { rules: 11, ..purge(&[3]) };
    let other_secret = Event { hashed_with: 99, ..purge(&[3]) };
    for event in [other_rules, other_secret] {
        let c = coherence();
        let before = c.sample();
        c.apply(E, 1, &event);
        assert_eq!(live(&c, &before, &[4]), Liveness::Void(Void::Floor), "{event:?}");
    }
    let c = coherence();
    let before = c.sample();
    c.apply(E, 1, &Event { rules: 0, hashed_with: c.view().secret_id, ..purge(&[3]) });
    assert_eq!(live(&c, &before, &[4]), Liveness::Live);
}

#[test]
fn a_soft_purge_makes_stale_what_came_before_it() {
    let c = coherence();
    let before = c.sample();
    c.apply(E, 1, &Event { kind: EventKind::Soft, ..purge(&[3]) });
    assert_eq!(live(&c, &before, &[3]), Liveness::Stale);
}

#[test]
fn names_are_hashed_with_the_views_secret() {
    let c = coherence();
    let before = c.sample();
    c.apply(E, 1, &Event { names: vec!["session:a".into()], ..Event::default() });
    assert_eq!(c.liveness(&before, &[Tag::of(&[7; 32], "session:a")]), Liveness::Void(Void::Purged));
    assert_eq!(c.liveness(&before, &[Tag::of(&[7; 32], "session:b")]), Liveness::Live);
}

#[test]
fn another_epoch_voids_everything_and_is_entered_once() {
    let c = coherence();
    let before = c.sample();
    c.enter_epoch(Epoch(2), [8; 32], 5);
    assert_eq!(live(&c, &before, &[]), Liveness::Void(Void::Epoch));
    assert_eq!(c.sample(), Stamp { epoch: Epoch(2), seq: 5, rules: 10 });
    c.apply(Epoch(2), 6, &purge(&[]));
    assert!(!c.enter(c.draft(Epoch(2), [8; 32], 5)));
    assert_eq!(c.sample().seq, 6, "what was applied since is not forgotten");
}

#[test]
fn a_replayed_epoch_knows_its_purges() {
    let c = coherence();
    let mut draft = c.draft(Epoch(2), [7; 32], 2);
    assert!(draft.apply(3, &purge(&[3])));
    assert!(draft.apply(4, &purge(&[4])));
    assert_eq!(c.view().epoch, E, "a draft is not in force");
    assert!(c.enter(draft));
    let old = |seq| Stamp { epoch: Epoch(2), seq, rules: 10 };
    assert_eq!(live(&c, &old(2), &[5]), Liveness::Live);
    assert_eq!(live(&c, &old(1), &[5]), Liveness::Void(Void::Floor));
    assert_eq!(live(&c, &old(2), &[3]), Liveness::Void(Void::Purged));
    assert_eq!(live(&c, &old(3), &[3]), Liveness::Live);
    assert_eq!(live(&c, &old(3), &[4]), Liveness::Void(Void::Purged));
}

#[test]
fn a_draft_read_by_rules_that_changed_meanwhile_is_all_floor() {
    let c = coherence();
    let mut draft = c.draft(Epoch(2), [7; 32], 2);
    draft.apply(3, &purge(&[3]));
    c.set_rules(11);
    c.enter(draft);
    assert_eq!(live(&c, &Stamp { epoch: Epoch(2), seq: 2, rules: 11 }, &[5]), Liveness::Void(Void::Floor));
}

#[test]
fn a_draft_can_be_told_that_the_log_lost_its_beginning() {
    let c = coherence();
    let mut draft = c.draft(Epoch(2), [7; 32], 2);
    draft.skip_to(9);
    draft.skip_to(4);
    assert_eq!(draft.applied(), 9);
    c.enter(draft);
    assert_eq!(live(&c, &Stamp { epoch: Epoch(2), seq: 8, rules: 10 }, &[]), Liveness::Void(Void::Floor));
}

#[test]
fn skipping_ahead_voids_what_is_older() {
    let c = coherence();
    let before = c.sample();
    assert!(!c.skip_to(Epoch(2), 1));
    assert!(c.skip_to(E, 1));
    assert!(!c.skip_to(E, 1));
    assert_eq!(live(&c, &before, &[]), Liveness::Void(Void::Floor));
    assert_eq!(live(&c, &c.sample(), &[]), Liveness::Live);
}

#[test]
fn other_rules_void_entries_and_keep_marks() {
    let c = coherence();
    let old = c.sample();
    c.set_rules(11);
    assert_eq!(live(&c, &old, &[]), Liveness::Void(Void::Rules));
    let new = c.sample();
    c.apply(E, 1, &Event { rules: 11, ..purge(&[3]) });
    assert_eq!(live(&c, &new, &[3]), Liveness::Void(Void::Purged));
    c.set_rules(10);
    assert_eq!(live(&c, &old, &[]), Liveness::Void(Void::Floor), "purged by other rules meanwhile");
}

#[test]
fn owed_tags_are_dead_until_their_event_has_come_through() {
    let c = coherence();
    let before = c.sample();
    let event = owed(&[3], 1);
    c.apply_owed(&event);
    let now = c.sample();
    assert_eq!(live(&c, &before, &[3]), Liveness::Void(Void::Purged));
    assert_eq!(live(&c, &now, &[3]), Liveness::Void(Void::Purged), "unstorable too");
    assert_eq!(live(&c, &now, &[4]), Liveness::Live);
    // Somebody else's event does not pay the debt.
    c.apply(E, 1, &purge(&[8]));
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Void(Void::Purged));
    // Nor does a like event of another number.
    c.apply(E, 2, &Event { id: 2, ..(*event).clone() });
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Void(Void::Purged));
    c.apply(E, 3, &event);
    assert_eq!(c.owed(), 0);
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Live);
    assert_eq!(live(&c, &now, &[3]), Liveness::Void(Void::Purged));
}

#[test]
fn what_is_owed_under_other_rules_keeps_everything_dead() {
    let c = coherence();
    let before = c.sample();
    c.set_rules(11);
    c.apply_owed(&Arc::new(Event { rules: 11, ..(*owed(&[3], 1)).clone() }));
    c.set_rules(10);
    assert_eq!(live(&c, &before, &[5]), Liveness::Void(Void::Floor), "these rules may have named 5");
    assert_eq!(live(&c, &c.sample(), &[5]), Liveness::Void(Void::Floor));
}

#[test]
fn an_owed_flush_keeps_everything_dead() {
    let c = coherence();
    let event = Arc::new(Event { origin: 5, id: 1, ..Event::flush() });
    c.apply_owed(&event);
    assert_eq!(live(&c, &c.sample(), &[]), Liveness::Void(Void::Floor));
    c.apply(E, 1, &event);
    assert_eq!(live(&c, &c.sample(), &[]), Liveness::Live);
}

#[test]
fn a_debt_follows_into_a_new_epoch() {
    let c = coherence();
    let event = owed(&[3], 1);
    c.apply_owed(&event);
    c.enter_epoch(Epoch(2), [7; 32], 4);
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Void(Void::Purged));
    assert_eq!(live(&c, &c.sample(), &[4]), Liveness::Live);
    c.settle_owed(&event);
    c.apply(Epoch(2), 5, &event);
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Live);
}

#[test]
fn a_debt_that_a_new_epoch_has_seen_is_paid() {
    let c = coherence();
    let event = owed(&[3], 1);
    c.apply_owed(&event);
    let mut draft = c.draft(Epoch(2), [7; 32], 0);
    draft.apply(1, &event);
    c.enter(draft);
    assert_eq!(c.owed(), 0);
    assert!(!c.settle_owed(&event));
    assert_eq!(live(&c, &c.sample(), &[3]), Liveness::Live);
}

#[test]
fn the_remembered_verdict_is_forgotten_with_every_change() {
    let tags = [Tag(3)];
    let changes: [fn(&Coherence); 5] = [
        |c| assert!(c.apply(E, 1, &purge(&[3]))),
        |c| c.apply_owed(&owed(&[3], 1)),
        |c| c.enter_epoch(Epoch(2), [7; 32], 0),
        |c| c.set_rules(11),
        |c| assert!(c.skip_to(E, 1)),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let c = coherence();
        let (stamp, last) = (c.sample(), AtomicU64::new(0));
        assert_eq!(c.reusable_since(&stamp, &tags, Duration::ZERO, &last), Liveness::Live);
        assert_eq!(last.load(Ordering::Relaxed), c.view().version.load(Ordering::Relaxed));
        assert_eq!(c.reusable_since(&stamp, &tags, Duration::ZERO, &last), Liveness::Live);
        change(&c);
        assert_ne!(c.reusable_since(&stamp, &tags, Duration::ZERO, &last), Liveness::Live, "change {i}");
    }
}

#[test]
fn concurrent_writers_leave_no_gap() {
    let c = Arc::new(Coherence::new(E, [0; 32], 10, 64));
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for seq in 1..=500 {
                    // Each thread offers every event, as follower and publisher do.
                    while c.sample().seq + 1 < seq {
                        std::hint::spin_loop();
                    }
                    c.apply(E, seq, &purge(&[seq]));
                }
            });
        }
    });
    assert_eq!(c.sample().seq, 500);
    assert_eq!(c.view().floor.load(Ordering::Relaxed), 0);
}

#[test]
fn a_sample_is_of_one_epoch() {
    let c = coherence();
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 2..20_000 {
                c.enter_epoch(Epoch(n), [7; 32], u64::try_from(n).unwrap());
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            let sample = c.sample();
            assert!(sample.epoch == E || sample.epoch.0 == u128::from(sample.seq), "{sample:?}");
        }
    });
}

#[test]
fn who_sees_a_sequence_applied_sees_its_marks() {
    let c = coherence();
    let over = AtomicBool::new(false);
    // The last of many tags is marked well after the first.
    let event = purge(&(0..64).collect::<Vec<_>>());
    std::thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..20_000 {
                c.append_local(&event);
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            let applied = c.sample().seq;
            if applied > 0 {
                let older = Stamp { seq: applied - 1, ..c.sample() };
                assert_eq!(live(&c, &older, &[63]), Liveness::Void(Void::Purged), "{applied}");
            }
        }
    });
}

proptest! {
    /// An entry sampled at any time is live exactly if no event after its sample named one of its tags.
    #[test]
    fn agrees_with_the_plain_reading(
        events in prop::collection::vec(prop::collection::vec(0u64..16, 0..4), 0..30),
        at in 0usize..30,
        tags in prop::collection::vec(0u64..16, 0..4),
    ) {
        let c = coherence();
        let at = at.min(events.len());
        let mut stamp = c.sample();
        for (i, event) in events.iter().enumerate() {
            if i == at { stamp = c.sample(); }
            c.append_local(&purge(event));
        }
        if at == events.len() { stamp = c.sample(); }
        let purged = events[at..].iter().flatten().any(|t| tags.contains(t));
        prop_assert_eq!(live(&c, &stamp, &tags) == Liveness::Live, !purged);
    }
}
