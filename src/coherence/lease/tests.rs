use super::*;
use crate::coherence::view::Epoch;

const SECOND: Duration = Duration::from_secs(1);
const ME: MemberId = MemberId(1);
const OTHER: MemberId = MemberId(2);

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Lease 2 s, patience 2.2 s; the view is of epoch 1.
fn membership(alone: Alone) -> Membership {
    let coherence = Arc::new(Coherence::new(Epoch(1), [7; 32], 10, 16));
    Membership::new(ME, Agreement::default(), alone, coherence)
}

fn roster(turn: u64, end: u64, members: &[(MemberId, u64)]) -> Roster {
    Roster {
        asked: at(1000.0),
        epoch: Epoch(1),
        turn,
        end,
        agreement: Agreement::default(),
        settled: true,
        members: members.to_vec(),
    }
}

fn apply_up_to(m: &Membership, end: u64) {
    for seq in 1..=end {
        m.coherence.apply(Epoch(1), seq, &crate::coherence::Event::default());
    }
}

#[test]
fn a_lease_counts_from_when_its_beat_was_sent_and_waits_for_what_it_was_told() {
    let m = membership(Alone::Serve);
    assert!(!m.coherence.holds_lease(at(0.0)));
    let beat = m.next_beat(at(10.0));
    m.beaten(&beat, &roster(1, 3, &[(ME, 1)]), at(11.0));
    assert!(!m.coherence.holds_lease(at(11.0)), "3 events are to be applied first");
    apply_up_to(&m, 3);
    assert!(m.coherence.holds_lease(at(11.9)));
    assert!(!m.coherence.holds_lease(at(12.0)), "2 s after it was sent, not after it was answered");
}

#[test]
fn a_lease_of_another_epoch_is_none() {
    let m = membership(Alone::Serve);
    let beat = m.next_beat(at(0.0));
    let told = Roster { epoch: Epoch(9), ..roster(1, 0, &[(ME, 1)]) };
    m.beaten(&beat, &told, at(0.1));
    assert!(!m.coherence.holds_lease(at(0.2)));
    m.coherence.enter_epoch(Epoch(9), [7; 32], 0);
    assert!(m.coherence.holds_lease(at(0.2)));
}

#[test]
fn a_lease_ends_with_its_epoch() {
    let m = membership(Alone::Serve);
    m.beaten(&m.next_beat(at(0.0)), &roster(1, 0, &[(ME, 1)]), at(0.1));
    assert!(m.coherence.holds_lease(at(0.2)));
    m.coherence.enter_epoch(Epoch(9), [7; 32], 0);
    assert!(!m.coherence.holds_lease(at(0.2)), "nobody in the new epoch counts on it");
}

#[test]
fn a_mutation_waits_for_everybody_s_word() {
    let m = membership(Alone::Serve);
    apply_up_to(&m, 5);
    let mut wait = m.wait(&roster(1, 5, &[(ME, 1), (OTHER, 4)]), 5, at(0.0));
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Until(at(2.2)));
    m.acknowledged(OTHER, Epoch(1), 4);
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Until(at(2.2)), "too little");
    m.acknowledged(OTHER, Epoch(2), 9);
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Until(at(2.2)), "of another epoch");
    m.acknowledged(OTHER, Epoch(1), 5);
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Over);
}

#[test]
fn a_silent_member_is_waited_for_until_its_lease_is_over() {
    let m = membership(Alone::Serve);
    apply_up_to(&m, 1);
    let mut wait = m.wait(&roster(1, 1, &[(ME, 1), (OTHER, 4)]), 1, at(1.0));
    assert_eq!(m.pending(&mut wait, at(3.1)), Pending::Until(at(3.2)));
    assert_eq!(m.pending(&mut wait, at(3.2)), Pending::Over);
}

#[test]
fn who_has_left_is_not_waited_for() {
    let m = membership(Alone::Serve);
    apply_up_to(&m, 1);
    let mut wait = m.wait(&roster(3, 1, &[(ME, 1), (OTHER, 4)]), 1, at(0.0));
    m.observe(&roster(2, 1, &[(ME, 1)]), at(0.1));
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Until(at(2.2)), "an older roster says nothing");
    m.observe(&roster(4, 1, &[(ME, 1)]), at(0.1));
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::Over);
}

#[test]
fn an_acknowledgement_may_come_before_its_sender_is_known() {
    let m = membership(Alone::Serve);
    apply_up_to(&m, 1);
    m.acknowledged(OTHER, Epoch(1), 1);
    let mut wait = m.wait(&roster(1, 1, &[(ME, 1), (OTHER, 1)]), 1, at(0.0));
    assert_eq!(m.pending(&mut wait, at(0.0)), Pending::Over);
}

#[test]
fn an_unsettled_epoch_is_waited_out() {
    let m = membership(Alone::Serve);
    let unsettled = |turn| Roster { settled: false, ..roster(turn, 0, &[(ME, 1)]) };
    m.observe(&unsettled(1), at(1.0));
    let mut wait = m.wait(&unsettled(2), 0, at(2.0));
    assert_eq!(m.pending(&mut wait, at(2.0)), Pending::Until(at(3.2)), "2.2 s after it was first seen");
    assert_eq!(m.pending(&mut wait, at(3.2)), Pending::Over);
    assert_eq!(m.next_beat(at(3.1)).settled, None);
    assert_eq!(m.next_beat(at(3.2)).settled, Some(Epoch(1)));
}

#[test]
fn an_epoch_is_settled_when_the_longest_lease_of_all_before_is_over() {
    let m = membership(Alone::Serve);
    m.observe(&Roster { settled: false, ..roster(1, 0, &[]) }, at(0.0));
    let agreement = Agreement { lease: SECOND / 4, mode: Mode::Strong };
    let shorter = Roster { epoch: Epoch(2), agreement, settled: false, ..roster(1, 0, &[]) };
    m.coherence.enter_epoch(Epoch(2), [7; 32], 0);
    let mut wait = m.wait(&shorter, 0, at(5.0));
    assert_eq!(m.pending(&mut wait, at(6.0)), Pending::Until(at(7.2)));
}

#[test]
fn an_epoch_that_ends_ends_the_wait_and_never_comes_back() {
    let m = membership(Alone::Serve);
    apply_up_to(&m, 1);
    let mut wait = m.wait(&roster(1, 1, &[(ME, 1)]), 1, at(0.0));
    m.observe(&Roster { epoch: Epoch(2), ..roster(1, 0, &[]) }, at(0.1));
    assert_eq!(m.pending(&mut wait, at(0.1)), Pending::EpochOver);
    m.observe(&roster(9, 1, &[(ME, 1)]), at(0.2));
    assert_eq!(m.pending(&mut wait, at(0.2)), Pending::EpochOver);
    assert!(!m.is_current(Epoch(1)));
}

#[test]
fn an_answer_that_was_long_on_its_way_tells_of_no_new_epoch() {
    let m = membership(Alone::Serve);
    m.observe(&roster(1, 0, &[(ME, 1)]), at(5.0));
    let late = Roster { asked: at(4.9), epoch: Epoch(2), ..roster(1, 0, &[(ME, 1)]) };
    let beat = crate::coherence::lease::Beat { number: 1, sent: at(4.9), settled: None };
    m.coherence.enter_epoch(Epoch(2), [7; 32], 0);
    m.beaten(&beat, &late, at(5.1));
    assert!(m.is_current(Epoch(1)) && !m.coherence.holds_lease(at(5.1)));
    m.observe(&Roster { asked: at(5.2), ..late }, at(5.3));
    assert!(m.is_current(Epoch(2)), "asked after the first was heard of");
}

#[test]
fn the_same_beat_number_for_a_whole_lease_is_silence() {
    let m = membership(Alone::Serve);
    m.observe(&roster(1, 0, &[(OTHER, 4)]), at(0.0));
    m.observe(&roster(2, 0, &[(OTHER, 5)]), at(1.0));
    m.observe(&roster(3, 0, &[(OTHER, 5)]), at(2.0));
    assert!(m.evictable(at(3.1)).is_empty());
    assert_eq!(m.evictable(at(3.2)), [(OTHER, 5)]);
}

#[test]
fn alone_and_cut_off_it_serves_on_in_company_it_does_not() {
    for (alone, members, serves) in [
        (Alone::Serve, &[(ME, 1)][..], true),
        (Alone::Bypass, &[(ME, 1)][..], false),
        (Alone::Serve, &[(ME, 1), (OTHER, 1)][..], false),
    ] {
        let m = membership(alone);
        let beat = m.next_beat(at(0.0));
        m.beaten(&beat, &roster(1, 0, members), at(0.0));
        let beat = m.next_beat(at(1.5));
        m.beat_failed(&beat, at(2.5));
        assert_eq!(m.coherence.holds_lease(at(3.0)), serves);
        assert!(!m.coherence.holds_lease(at(3.5)), "only for another lease");
    }
}

#[test]
fn who_was_alone_and_slept_for_a_lease_asks_first() {
    let m = membership(Alone::Serve);
    m.beaten(&m.next_beat(at(0.0)), &roster(1, 0, &[(ME, 1)]), at(0.0));
    m.beat_failed(&m.next_beat(at(60.0)), at(60.1));
    assert!(!m.coherence.holds_lease(at(60.2)), "it slept before the beat");
    m.beaten(&m.next_beat(at(61.0)), &roster(2, 0, &[(ME, 2)]), at(61.0));
    let beat = m.next_beat(at(61.5));
    m.beat_failed(&beat, at(90.0));
    m.beat_failed(&m.next_beat(at(90.1)), at(90.2));
    assert!(!m.coherence.holds_lease(at(90.3)), "it slept during the beat");
}

#[test]
fn nobody_is_alone_in_an_epoch_where_others_may_not_have_registered_anew() {
    let m = membership(Alone::Serve);
    let unsettled = |turn| Roster { settled: false, ..roster(turn, 0, &[(ME, 1)]) };
    m.beaten(&m.next_beat(at(0.0)), &unsettled(1), at(0.0));
    m.beat_failed(&m.next_beat(at(1.5)), at(2.1));
    m.beat_failed(&m.next_beat(at(2.5)), at(3.0));
    assert!(!m.coherence.holds_lease(at(3.0)), "they may have since: what was heard is too old");
    m.observe(&unsettled(2), at(3.0));
    m.beat_failed(&m.next_beat(at(3.1)), at(3.2));
    assert!(m.coherence.holds_lease(at(3.3)));
}

#[test]
fn who_could_not_be_heard_of_was_not_silent() {
    let m = membership(Alone::Serve);
    m.observe(&roster(1, 0, &[(OTHER, 4)]), at(0.0));
    m.unanswered(at(1.0));
    m.observe(&roster(2, 0, &[(OTHER, 4)]), at(5.0));
    assert!(m.evictable(at(7.1)).is_empty());
    assert_eq!(m.evictable(at(7.2)), [(OTHER, 4)]);
}

#[test]
fn who_was_alone_waits_for_who_may_have_joined_since() {
    let m = membership(Alone::Serve);
    let beat = m.next_beat(at(0.0));
    m.beaten(&beat, &roster(1, 0, &[(ME, 1)]), at(0.0));
    assert_eq!(m.detached_until(at(0.1)), None, "the log answers");
    m.beat_failed(&m.next_beat(at(0.5)), at(1.5));
    m.beat_failed(&m.next_beat(at(1.6)), at(2.6));
    assert_eq!(m.detached_until(at(2.6)), Some(at(3.7)), "lease × drift after the first failed contact");
}

#[test]
fn a_silence_that_was_slept_through_does_not_count_as_waited() {
    let m = membership(Alone::Bypass);
    m.beaten(&m.next_beat(at(0.0)), &roster(1, 0, &[(ME, 1), (OTHER, 1)]), at(0.0));
    m.unanswered(at(1.0));
    m.unanswered(at(2.9));
    assert_eq!(m.detached_until(at(2.9)), Some(at(3.2)));
    // Meanwhile others may have been answered.
    m.unanswered(at(4.9));
    assert_eq!(m.detached_until(at(4.9)), Some(at(7.1)));
    m.beat_failed(&m.next_beat(at(4.0)), at(6.0));
    assert_eq!(m.detached_until(at(6.0)), Some(at(7.1)));
    m.beat_failed(&m.next_beat(at(7.5)), at(8.0));
    assert_eq!(m.detached_until(at(8.0)), Some(at(10.2)));
    m.observe(&roster(2, 0, &[(ME, 1), (OTHER, 1)]), at(8.5));
    assert_eq!(m.detached_until(at(8.5)), None);
    m.unanswered(at(9.0));
    assert_eq!(m.detached_until(at(10.9)), Some(at(11.2)));
    // Nor does one that is noticed by nothing but the end of the wait.
    assert_eq!(m.detached_until(at(14.0)), Some(at(16.2)));
    assert_eq!(m.detached_until(at(14.1)), Some(at(16.2)));
}

#[test]
fn who_has_agreed_on_something_else_answers_nothing() {
    let m = membership(Alone::Serve);
    let beat = m.next_beat(at(0.0));
    m.beaten(&beat, &roster(1, 0, &[(ME, 1)]), at(0.0));
    assert!(m.coherence.holds_lease(at(1.0)));
    let agreement = Agreement { lease: 5 * SECOND, mode: Mode::Strong };
    let told = Roster { agreement, ..roster(2, 0, &[(OTHER, 1)]) };
    assert_eq!(m.beaten(&m.next_beat(at(0.5)), &told, at(0.5)), Standing::Refused(agreement));
    assert!(!m.coherence.holds_lease(at(1.0)));
    let mut wait = m.wait(&Roster { turn: 3, ..told }, 0, at(1.0));
    assert_eq!(m.pending(&mut wait, at(1.0)), Pending::Until(at(6.5)), "others' leases are longer");
}
