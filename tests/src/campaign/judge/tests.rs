//! The judge against streams that are broken in every way it has to see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const ONE_LOG: Rules = Rules {
    ids_are_shared: true,
    may_begin_anew: false,
    log_of: |_| 0,
};
const BYTES: usize = 20;
/// After everything was published.
const AFTER_ALL: u64 = 1_000;

/// Two channels in turn: number 0 to 9 of each, offsets 1 to 20; one after the other.
fn published() -> Truth {
    let truth = Truth::new(vec!["o.a".into(), "o.b".into()]);
    for turn in 0..20 {
        let channel = turn % 2;
        let number = truth.begin(channel, BYTES);
        truth.end(channel, number, Outcome::Stored, Some(id(turn + 1)));
    }
    truth
}

fn id(offset: usize) -> String {
    let digits = "0123456789abcdefghijklmnopqrstuvwxyz";
    format!("r0.1.{}", &digits[offset..=offset])
}

fn event(channel: usize, number: usize) -> Seen {
    Seen::Event {
        channel,
        number,
        bytes: BYTES,
        id: id(number * 2 + channel + 1).into(),
    }
}

fn gap(scope: &str, after: usize, next: usize) -> Seen {
    Seen::Gap(GapSeen {
        scope: scope.into(),
        cause: "reconnected".into(),
        after: Some(id(after)),
        next: id(next),
        at: AFTER_ALL,
    })
}

fn anew(scope: &str, next: usize) -> Seen {
    Seen::Gap(GapSeen {
        scope: scope.into(),
        cause: "new_epoch".into(),
        after: Some("r0.0.5".into()),
        next: id(next),
        at: AFTER_ALL,
    })
}

/// Streams that nobody had found were lost.
fn of_index(log: &str) -> Seen {
    Seen::Gap(GapSeen {
        scope: "o.*".into(),
        cause: "new_epoch".into(),
        after: Some(format!("{log}.1.0")),
        next: format!("{log}.2.0"),
        at: AFTER_ALL,
    })
}

/// Everything, in order.
fn whole() -> Vec<Seen> {
    let mut seen = vec![Seen::Joined(vec![0, 0])];
    seen.extend((0..20).map(|turn| event(turn % 2, turn / 2)));
    seen
}

/// Where an event stands in [`whole`].
fn at(channel: usize, number: usize) -> usize {
    1 + number * 2 + channel
}

fn record(truth: &Truth, rules: Rules) -> Record {
    let last_words: Vec<usize> = (0..2).map(|channel| truth.next(channel) - 1).collect();
    Record::new(truth, &last_words, rules)
}

fn judged(seen: Vec<Seen>) -> Verdict {
    judged_of(&published(), seen)
}

fn judged_of(truth: &Truth, seen: Vec<Seen>) -> Verdict {
    let transcript = Transcript {
        client: 7,
        selectors: vec!["o.*".into()],
        channels: vec![0, 1],
        seen,
        is_unfinished: false,
    };
    record(truth, ONE_LOG).judge_all(&[transcript])
}

#[test]
fn what_is_whole_is_true() {
    let mut seen = whole();
    seen.insert(9, Seen::Broke("reset"));
    seen.insert(10, Seen::Back("edge-1".into()));
    let verdict = judged(seen);
    assert!(verdict.is_true(), "{:?}", verdict.findings);
    assert_eq!(
        (verdict.delivered, verdict.gaps, verdict.breaks),
        (20, 0, 1)
    );
}

#[test]
fn a_dropped_event_is_missing_wherever_it_was() {
    for number in [0, 4, 9] {
        let mut seen = whole();
        seen.remove(at(1, number));
        let verdict = judged(seen);
        assert_eq!((verdict.missing, verdict.delivered), (1, 19), "{number}");
        let finding = &verdict.findings[0];
        let who = format!("client 7 (o.*), o.b number {number} never came");
        assert!(finding.contains(&who), "{finding}");
    }
}

#[test]
fn a_doubled_event_is_a_duplicate_at_once_and_later() {
    for place in [at(0, 3) + 1, at(0, 8)] {
        let mut seen = whole();
        seen.insert(place, event(0, 3));
        let verdict = judged(seen);
        assert_eq!((verdict.duplicates, verdict.missing), (1, 0), "{verdict}");
    }
}

#[test]
fn a_swapped_pair_is_a_reordering_and_no_loss() {
    // Of one channel.
    let mut seen = whole();
    seen.swap(at(0, 3), at(0, 4));
    let verdict = judged(seen);
    assert!(verdict.reordered > 0 && verdict.missing == 0, "{verdict}");
    // Of two channels of one log.
    let mut seen = whole();
    seen.swap(at(0, 3), at(1, 3));
    let verdict = judged(seen);
    assert!(verdict.reordered > 0 && verdict.missing == 0, "{verdict}");
    // The same, where ids tell nothing.
    let mut seen = whole();
    seen.swap(at(0, 3), at(1, 3));
    for (offset, seen) in seen.iter_mut().skip(1).enumerate() {
        if let Seen::Event { id: own, .. } = seen {
            *own = id(offset + 1).into();
        }
    }
    let transcript = Transcript {
        channels: vec![0, 1],
        seen,
        ..Transcript::default()
    };
    let rules = Rules {
        ids_are_shared: false,
        ..ONE_LOG
    };
    let verdict = record(&published(), rules).judge(&transcript);
    assert_eq!(verdict.reordered, 1, "{verdict}");
}

#[test]
fn a_gap_covers_what_it_names_and_has_room_for() {
    // o.a number 3 has the offset 7.
    for covering in [
        gap("o.a", 5, 8),
        gap("o.*", 6, 7),
        gap(">", 1, 20),
        anew("o.a", 7),
        of_index("t0123456789ab"),
    ] {
        let mut seen = whole();
        seen[at(0, 3)] = covering.clone();
        let verdict = judged(seen);
        assert_eq!(
            (verdict.missing, verdict.covered),
            (0, 1),
            "{covering:?} {:?}",
            verdict.findings
        );
        assert_eq!((verdict.gaps, verdict.idle_gaps), (1, 0));
    }
}

#[test]
fn a_gap_that_does_not_cover_hides_nothing() {
    let mut elsewhere = vec![gap("o.b", 5, 8), gap("o.a.*", 5, 8), gap("o", 5, 8)];
    // The bounds leave no room.
    elsewhere.extend([gap("o.a", 7, 9), gap("o.a", 1, 6), anew("o.a", 6)]);
    elsewhere.push(of_index("s0123456789ab"));
    for other in elsewhere {
        let mut seen = whole();
        seen[at(0, 3)] = other.clone();
        let verdict = judged(seen);
        assert_eq!((verdict.missing, verdict.covered), (1, 0), "{other:?}");
        assert_eq!((verdict.gaps, verdict.idle_gaps), (1, 1));
    }
    // It stands before the event before, or after the event after and ends before that.
    for place in [at(0, 2), at(0, 4)] {
        let mut seen = whole();
        seen.remove(at(0, 3));
        seen.insert(place, gap("o.a", 5, 8));
        let verdict = judged(seen);
        assert_eq!((verdict.missing, verdict.idle_gaps), (1, 1), "{place}");
    }
}

#[test]
fn a_gap_that_comes_late_covers_if_what_came_before_it_lies_within() {
    let late = |gap: Seen| {
        let mut seen = whole();
        seen.remove(at(0, 3));
        seen.insert(at(0, 4), gap);
        judged(seen)
    };
    // o.a number 3 has the offset 7, number 4, which came before the gap, has 9.
    assert!(late(gap("o.a", 6, 9)).is_true());
    assert!(late(gap(">", 1, 10)).is_true());
    for (after, next) in [(6, 8), (9, 10)] {
        assert_eq!(late(gap("o.a", after, next)).missing, 1);
    }
    assert_eq!(late(gap("o.b", 6, 9)).missing, 1);
}

/// Order holds within a log: of another log, the index's gap may come after an event of the new life.
#[test]
fn a_gap_of_the_index_covers_what_its_client_was_not_told_yet() {
    let Seen::Gap(gap) = of_index("t0123456789ab") else {
        unreachable!();
    };
    assert!(gap.encloses("s1.2.7~t0123456789ab.1.0"));
    // It was told, the event is of the old life, or the index is another.
    assert!(!gap.encloses("s1.2.7~t0123456789ab.2.0"));
    assert!(!gap.encloses("s1.1.7~t0123456789ab.1.0"));
    assert!(!gap.encloses("s1.2.7~t0123456789xy.1.0"));
}

/// The log began again without its newest two, and what is there comes once more.
#[test]
fn a_gap_that_ends_a_life_covers_what_was_begun_before_it_came() {
    let again = |after: &str, at: u64| {
        let mut seen = whole();
        seen.truncate(1 + 15);
        seen.push(Seen::Gap(GapSeen {
            scope: "o.*".into(),
            cause: "new_epoch".into(),
            after: Some(after.into()),
            next: "r0.2.0".into(),
            at,
        }));
        let anew = |offset: usize| id(offset).replace("r0.1.", "r0.2.").into();
        for turn in (0..15).chain(17..20) {
            seen.push(Seen::Event {
                channel: turn % 2,
                number: turn / 2,
                bytes: BYTES,
                id: anew(turn + 1),
            });
        }
        let rules = Rules {
            may_begin_anew: true,
            ..ONE_LOG
        };
        let transcript = Transcript {
            channels: vec![0, 1],
            seen,
            ..Transcript::default()
        };
        record(&published(), rules).judge_all(&[transcript])
    };
    let survived = id(15);
    // The second: a client that was away for two lives, and knows the first alone.
    for after in [&survived, "r0.0.5"] {
        let verdict = again(after, AFTER_ALL);
        assert_eq!((verdict.missing, verdict.covered), (0, 2), "{verdict}");
        assert_eq!((verdict.repeated, verdict.garbled), (15, 0), "{verdict}");
    }
    // It says that they were there, or is of another log.
    for after in [&id(17), "r1.1.3"] {
        assert_eq!(again(after, AFTER_ALL).missing, 2);
    }
    // The sixteenth and seventeenth were begun later.
    let verdict = again(&survived, published().of(1)[7].begun);
    assert_eq!((verdict.missing, verdict.covered), (2, 0), "{verdict}");
}

/// Who knew of the loss came late, and says after which place it was.
#[test]
fn a_gap_that_ends_a_life_late_covers_what_was_passed_over_in_it() {
    let late = |after: usize, at: u64| {
        let mut seen = whole();
        // o.a number 3, with the offset 7; number 4 has 9 and comes before the gap.
        seen.remove(self::at(0, 3));
        let gap = self::at(0, 4);
        for event in &mut seen[gap..] {
            if let Seen::Event { id, .. } = event {
                *id = id.replace("r0.1.", "r0.2.").into();
            }
        }
        seen.insert(
            gap,
            Seen::Gap(GapSeen {
                scope: "o.*".into(),
                cause: "new_epoch".into(),
                after: Some(id(after)),
                next: id(9).replace("r0.1.", "r0.2."),
                at,
            }),
        );
        let rules = Rules {
            may_begin_anew: true,
            ..ONE_LOG
        };
        let transcript = Transcript {
            channels: vec![0, 1],
            seen,
            ..Transcript::default()
        };
        record(&published(), rules).judge_all(&[transcript])
    };
    let verdict = late(6, AFTER_ALL);
    assert!(verdict.is_true(), "{:?}", verdict.findings);
    assert_eq!(verdict.covered, 1);
    // It says that the loss came later, or the event was begun later.
    assert_eq!(late(7, AFTER_ALL).missing, 1);
    assert_eq!(late(9, AFTER_ALL).missing, 1);
    assert_eq!(late(6, published().of(0)[3].begun).missing, 1);
}

/// One channel, of which number 2 was lost on the way from the life 1 to the life 2. `lost` is its id.
fn two_lives(lost: &str) -> Truth {
    let truth = Truth::new(vec!["o.a".into()]);
    for id in ["r0.1.2", "r0.1.5", lost, "r0.2.8", "r0.2.9"] {
        let number = truth.begin(0, BYTES);
        truth.end(0, number, Outcome::Stored, Some(id.into()));
    }
    truth
}

fn of_life(number: usize, id: &str) -> Seen {
    Seen::Event {
        channel: 0,
        number,
        bytes: BYTES,
        id: id.into(),
    }
}

fn between_lives(after: Option<&str>, at: u64) -> Seen {
    Seen::Gap(GapSeen {
        scope: ">".into(),
        cause: "new_epoch".into(),
        after: after.map(str::to_owned),
        next: "r0.2.7".into(),
        at,
    })
}

/// What a client missed that saw all else, and these instead of the lost one, while another client
/// saw that.
fn missed(lost: &str, told: &[Seen], elsewhere: &[Seen]) -> (usize, usize) {
    missed_then(lost, told, elsewhere, &["r0.2.8", "r0.2.9"])
}

/// The same with the ids of the last ones to come.
fn missed_then(lost: &str, told: &[Seen], elsewhere: &[Seen], last: &[&str]) -> (usize, usize) {
    let told = told.iter().cloned();
    let before = [(0, "r0.1.2"), (1, "r0.1.5")].map(|(number, id)| of_life(number, id));
    let last = last.iter().zip(5 - last.len()..);
    let after = last.map(|(id, number)| of_life(number, id));
    let joined = [Seen::Joined(vec![0])];
    let seen = joined.into_iter().chain(before).chain(told).chain(after);
    let transcript = |seen: Vec<Seen>, is_unfinished| Transcript {
        channels: vec![0],
        seen,
        is_unfinished,
        ..Transcript::default()
    };
    let other = [&[Seen::Joined(vec![2])], elsewhere].concat();
    let all = [transcript(seen.collect(), false), transcript(other, true)];
    let rules = Rules {
        may_begin_anew: true,
        ..ONE_LOG
    };
    let mut record = Record::new(&two_lives(lost), &[4], rules);
    record.judge_all(&all);
    let verdict = record.judge(&all[0]);
    (verdict.missing, verdict.covered)
}

#[test]
fn what_only_another_life_had_is_told_by_the_next_new_one() {
    let gap = |at| [between_lives(Some("r0.1.5"), at)];
    let begun = two_lives("r0.9.7").of(0)[2].begun;
    // Even where its place there would be behind the client.
    assert_eq!(missed("r0.9.1", &gap(AFTER_ALL), &[]), (0, 1));
    let there = [of_life(2, "r0.9.7")];
    assert_eq!(missed("r0.9.7", &gap(AFTER_ALL), &there), (0, 1));
    assert_eq!(missed("r0.9.7", &[], &there), (1, 0), "no gap");
    // Events of the new life came before the gap: it tells nothing of what was begun later, nor of
    // another log.
    let late = |lost: &str, at| {
        let told = [of_life(3, "r0.2.8"), between_lives(Some("r0.1.5"), at)];
        missed_then(lost, &told, &[], &["r0.2.9"])
    };
    assert_eq!(late("r0.9.7", AFTER_ALL), (0, 1));
    assert_eq!(late("r0.9.7", begun), (1, 0));
    assert_eq!(late("r1.9.7", AFTER_ALL), (1, 0));
}

#[test]
fn what_the_new_life_has_after_the_gap_is_lost_to_nobody() {
    let late = |elsewhere: &[Seen]| {
        let told = [
            of_life(3, "r0.2.8"),
            between_lives(Some("r0.1.5"), AFTER_ALL),
        ];
        missed_then("r0.9.3", &told, elsewhere, &["r0.2.9"])
    };
    assert_eq!(late(&[]), (0, 1));
    assert_eq!(late(&[of_life(2, "r0.9.3")]), (0, 1));
    assert_eq!(
        late(&[of_life(2, "r0.2.6")]),
        (1, 0),
        "it was there already"
    );
    // It comes out of another life, and the new one has the event up to where the gap ends, or after
    // that: then the client gets what is there.
    let late = |lost: &str| {
        let gap = between_lives(Some("r0.1.5"), AFTER_ALL);
        let told = [of_life(3, "r0.1.8"), gap];
        missed_then("r0.9.3", &told, &[of_life(2, lost)], &["r0.2.9"])
    };
    assert_eq!((late("r0.2.6"), late("r0.2.8")), ((0, 1), (1, 0)));
}

/// After a gap its client was beyond the event's place in the new life, and then in another one.
#[test]
fn what_comes_after_a_gap_takes_nothing_back() {
    let told = [
        between_lives(Some("r0.1.5"), AFTER_ALL),
        of_life(1, "r0.2.6"),
        Seen::Gap(GapSeen {
            scope: ">".into(),
            cause: "new_epoch".into(),
            after: Some("r0.2.6".into()),
            next: "r0.3.1".into(),
            at: AFTER_ALL,
        }),
        of_life(1, "r0.3.2"),
    ];
    let missed = |told: &[Seen]| {
        let elsewhere = [of_life(2, "r0.2.4")];
        missed_then("r0.1.6", told, &elsewhere, &["r0.3.8", "r0.3.9"])
    };
    assert_eq!(missed(&told), (0, 1));
    assert_eq!(missed(&told[1..]), (1, 0), "the second one alone");
}

/// Published again under its key, where a server that took over lacked it.
#[test]
fn two_places_of_a_life_are_one_too_many_unless_the_lower_is_told_lost() {
    let garbled = |after| {
        let gap = between_lives(Some(after), AFTER_ALL);
        let seen = vec![Seen::Joined(vec![2]), of_life(2, "r0.1.6"), gap];
        let transcript = Transcript {
            channels: vec![0],
            seen,
            is_unfinished: true,
            ..Transcript::default()
        };
        let rules = Rules {
            may_begin_anew: true,
            ..ONE_LOG
        };
        let mut record = Record::new(&two_lives("r0.1.9"), &[4], rules);
        record.judge_all(&[transcript]).garbled
    };
    assert_eq!((garbled("r0.1.5"), garbled("r0.1.6")), (0, 1));
}

/// A server that took over had not got all that the one before had taken, and that is found out later.
#[test]
fn a_gap_tells_what_lies_after_its_beginning_even_behind_the_client() {
    let late = |lost: &str, after| missed(lost, &[between_lives(after, AFTER_ALL)], &[]);
    // The client was at 5 in the life 1. The event stood before that, and did not come.
    for after in ["r0.1.5", "r0.1.4"] {
        assert_eq!(late("r0.1.4", Some(after)), (1, 0), "{after}");
    }
    assert_eq!(late("r0.1.4", Some("r0.1.3")), (0, 1));
    assert_eq!(late("r0.1.4", None), (0, 1));
    // The gap begins in a life before, in which nothing is said of this one.
    let told = [
        of_life(3, "r0.2.8"),
        between_lives(Some("r0.7.1"), AFTER_ALL),
    ];
    let late = |lost: &str| missed_then(lost, &told, &[], &["r0.2.9"]);
    assert_eq!((late("r0.1.4"), late("r0.1.6")), ((1, 0), (0, 1)));
}

/// Not everybody's log forked where the client's did.
#[test]
fn places_that_were_given_twice_prove_nothing() {
    let told = [
        of_life(3, "r0.2.8"),
        between_lives(Some("r0.1.6"), AFTER_ALL),
    ];
    let late = |lost: &str| missed_then(lost, &told, &[], &["r0.2.9"]);
    // Number 1 has the place 5 as well.
    assert_eq!(late("r0.1.5"), (0, 1));
    assert_eq!(late("r0.1.4"), (1, 0));
}

/// A gap that is followed by a new life at once counts as much as it did.
#[test]
fn what_a_gap_tells_before_a_new_life_is_told() {
    let told = |next: &str| {
        let gap = Seen::Gap(GapSeen {
            scope: ">".into(),
            cause: "evicted".into(),
            after: Some("r0.1.5".into()),
            next: next.into(),
            at: AFTER_ALL,
        });
        let again = of_life(0, "r0.2.1");
        let told = [gap, between_lives(Some("r0.1.8"), AFTER_ALL), again];
        missed("r0.1.7", &told, &[])
    };
    assert_eq!(told("r0.1.8"), (0, 1));
    assert_eq!(told("r0.1.6"), (1, 0));
}

#[test]
fn a_gap_over_nothing_is_idle() {
    let mut seen = whole();
    seen.insert(at(0, 3), gap("o.*", 5, 8));
    let verdict = judged(seen);
    assert!(verdict.is_true());
    assert_eq!((verdict.gaps, verdict.idle_gaps), (1, 1));
}

#[test]
fn what_comes_again_is_allowed_where_the_log_began_anew_alone() {
    let again = |gap: Seen| {
        let mut seen = whole();
        seen.insert(at(0, 6), gap);
        seen.insert(at(0, 6) + 1, event(0, 4));
        seen.insert(at(0, 6) + 2, event(0, 5));
        judged(seen)
    };
    let verdict = again(anew("o.a", 0));
    assert!(verdict.is_true(), "{:?}", verdict.findings);
    assert_eq!((verdict.repeated, verdict.delivered), (2, 20));
    assert_eq!(again(gap("o.a", 5, 8)).duplicates, 2);
    assert_eq!(again(anew("o.b", 0)).duplicates, 2);
    assert_eq!(again(of_index("t0123456789ab")).duplicates, 2);
}

#[test]
fn what_was_refused_may_not_come() {
    let truth = published();
    let number = truth.begin(0, BYTES);
    truth.end(0, number, Outcome::Refused, None);
    assert!(judged_of(&truth, whole()).is_true());
    let mut seen = whole();
    seen.push(event(0, number));
    assert_eq!(judged_of(&truth, seen).phantoms, 1);
    let mut seen = whole();
    seen.push(event(0, number + 1));
    assert_eq!(judged_of(&truth, seen).phantoms, 1, "never published");
}

#[test]
fn what_is_unknown_may_come_once_whenever() {
    let truth = published();
    let unknown = truth.begin(0, BYTES);
    truth.end(0, unknown, Outcome::Unknown, None);
    let later = truth.begin(0, BYTES);
    truth.end(0, later, Outcome::Stored, None);
    let tail = |order: &[usize]| {
        let mut seen = whole();
        for (index, number) in order.iter().enumerate() {
            let id = id(21 + index).into();
            let (channel, number, bytes) = (0, *number, BYTES);
            seen.push(Seen::Event {
                channel,
                number,
                bytes,
                id,
            });
        }
        judged_of(&truth, seen)
    };
    for order in [&[later][..], &[unknown, later], &[later, unknown]] {
        let verdict = tail(order);
        assert!(verdict.is_true(), "{order:?} {:?}", verdict.findings);
    }
    assert_eq!(tail(&[unknown, later, unknown]).duplicates, 1);
    assert_eq!(tail(&[unknown]).missing, 1);
}

#[test]
fn who_joins_late_is_owed_what_began_later() {
    let mut seen = whole();
    seen[0] = Seen::Joined(vec![4, 4]);
    seen.drain(1..at(0, 4));
    assert!(judged(seen.clone()).is_true());
    seen.remove(1);
    assert_eq!(judged(seen).missing, 1);
    assert_eq!(judged(Vec::new()).missing, 1, "who never got in");
}

#[test]
fn other_data_other_ids_and_other_channels_are_seen() {
    let mut seen = whole();
    if let Seen::Event { bytes, .. } = &mut seen[at(0, 3)] {
        *bytes += 1;
    }
    assert_eq!(judged(seen).garbled, 1);
    let mut seen = whole();
    if let Seen::Event { id: own, .. } = &mut seen[at(1, 9)] {
        *own = id(30).into();
    }
    assert_eq!(
        judged(seen).garbled,
        1,
        "not the id that its publisher was told"
    );
    let transcript = Transcript {
        channels: vec![0],
        seen: whole(),
        ..Transcript::default()
    };
    let verdict = record(&published(), ONE_LOG).judge(&transcript);
    assert_eq!(verdict.phantoms, 10, "of a channel that it did not ask for");
}

#[test]
fn who_left_after_the_last_words_is_owed_nothing_more() {
    let truth = published();
    let last_words = [9, 9];
    let later = truth.begin(0, BYTES);
    truth.end(0, later, Outcome::Stored, None);
    let transcript = Transcript {
        channels: vec![0, 1],
        seen: whole(),
        ..Transcript::default()
    };
    assert!(
        Record::new(&truth, &last_words, ONE_LOG)
            .judge(&transcript)
            .is_true()
    );
    assert_eq!(record(&truth, ONE_LOG).judge(&transcript).missing, 1);
}

/// What has not come yet is no loss; that it has not is a finding all the same.
#[test]
fn who_did_not_get_to_the_end_lost_nothing_yet() {
    let mut seen = whole();
    seen.truncate(at(0, 5));
    let mut transcript = Transcript {
        channels: vec![0, 1],
        seen,
        is_unfinished: true,
        ..Transcript::default()
    };
    let judge = |transcript: &Transcript| record(&published(), ONE_LOG).judge(transcript);
    let verdict = judge(&transcript);
    assert_eq!((verdict.unfinished, verdict.missing), (1, 0));
    assert!(!verdict.is_true());
    transcript.seen.remove(at(0, 3));
    assert_eq!(judge(&transcript).missing, 1, "before its end");
}

/// Whatever single thing is taken out, doubled or moved, the judge sees it.
#[test]
fn no_single_change_of_a_whole_stream_goes_unseen() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut seen = whole();
        let from = rng.usize(1..seen.len());
        let taken = seen.remove(from);
        match rng.u32(0..3) {
            0 => {}
            1 => {
                seen.insert(from, taken.clone());
                seen.insert(rng.usize(1..=seen.len()), taken);
            }
            _ => {
                let others = (1..=seen.len()).filter(|place| *place != from);
                let others: Vec<usize> = others.collect();
                seen.insert(others[rng.usize(0..others.len())], taken);
            }
        }
        assert!(!judged(seen).is_true(), "seed {seed}");
    }
}
