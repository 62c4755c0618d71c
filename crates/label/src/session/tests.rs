//! Sessions with several annotators, restarts and steps back.

use std::collections::BTreeSet;

use rlhf_base::Text;

use super::picking::{BEFORE_REPEAT, PATIENCE};
use super::*;
use crate::Candidates;
use crate::item::Answer;
use crate::strategy::Random;

fn settings() -> Settings {
    Settings {
        kind: Kind::Pair,
        seed: 1,
        repeat: 0.0,
        overlap: 0.0,
        items: None,
        clock: Clock::Absent,
    }
}

fn candidates(n: usize) -> Vec<Candidates> {
    let answer = |text: String| Answer {
        text: Text::from(text),
        model: None,
        finished: true,
    };
    let one = |i: usize| {
        let answers = (0..3).map(|j| answer(format!("answer {i} {j}")));
        Candidates::new(Text::from(format!("prompt {i}")), answers.collect(), None)
    };
    (0..n).map(one).collect()
}

fn open(file: &Path, n: usize, settings: Settings) -> Session {
    let pool = Pool::of(candidates(n), settings.seed);
    let strategy = Box::new(Random {
        seed: settings.seed,
    });
    Session::open(file, pool, strategy, settings).unwrap()
}

fn show(session: &mut Session, annotator: &str) -> Shown {
    match session.next(annotator).unwrap() {
        Next::Show(shown) => shown,
        other => panic!("{other:?}"),
    }
}

fn left() -> Verdict {
    Verdict::Better {
        side: 0,
        strength: 1,
    }
}

/// Judges until there is nothing left; the names of what was on the screen.
fn finish(session: &mut Session, annotator: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while let Next::Show(shown) = session.next(annotator).unwrap() {
        session
            .judge(annotator, &shown.id, left(), None, None)
            .unwrap();
        seen.push(shown.id);
    }
    seen
}

fn items(seen: &[String]) -> BTreeSet<&str> {
    seen.iter()
        .map(|id| id.split_once('.').unwrap().0)
        .collect()
}

#[test]
fn a_restart_goes_on_where_the_last_session_was_with_the_same_screen() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("prefs.jsonl");
    let mut whole = open(&tmp.path().join("whole.jsonl"), 8, settings());
    let all = finish(&mut whole, "a");
    assert_eq!(all.len(), 8);
    let mut seen = Vec::new();
    for _ in 0..8 {
        let mut session = open(&file, 8, settings());
        let shown = show(&mut session, "a");
        assert_eq!(
            shown,
            show(&mut session, "a"),
            "the same until it is judged"
        );
        session.judge("a", &shown.id, left(), None, None).unwrap();
        seen.push(shown.id);
    }
    assert_eq!(seen, all);
    assert_eq!(open(&file, 8, settings()).next("a").unwrap(), Next::Done);
    let (one, other) = (
        fs_err::read(&file).unwrap(),
        fs_err::read(tmp.path().join("whole.jsonl")).unwrap(),
    );
    assert_eq!(one, other);
}

#[test]
fn two_annotators_get_different_items_but_for_the_share_that_overlaps() {
    let tmp = tempfile::tempdir().unwrap();
    let mut session = open(&tmp.path().join("apart.jsonl"), 20, settings());
    let first = show(&mut session, "a");
    session.ahead("a").unwrap();
    let b = finish(&mut session, "b");
    assert_eq!(b.len(), 18, "two are on the screen of a, or will be next");
    assert!(!items(&b).contains(first.item.id.as_str()));
    assert_eq!(finish(&mut session, "a").len(), 2);

    let overlap = Settings {
        overlap: 0.4,
        ..settings()
    };
    let mut session = open(&tmp.path().join("overlap.jsonl"), 50, overlap);
    let a = finish(&mut session, "a");
    let b = finish(&mut session, "b");
    assert_eq!(a.len(), 50);
    // 20 expected; four standard errors of a share of 50 draws are 14.
    assert!((6..=34).contains(&b.len()), "{}", b.len());
    assert!(items(&b).is_subset(&items(&a)));
}

#[test]
fn repetitions_come_after_ten_others_with_sides_of_their_own() {
    let tmp = tempfile::tempdir().unwrap();
    let all = Settings {
        repeat: 1.0,
        ..settings()
    };
    let mut session = open(&tmp.path().join("prefs.jsonl"), 30, all);
    let seen = finish(&mut session, "a");
    assert_eq!(seen.len(), 60);
    let at = |name: String| seen.iter().position(|id| *id == name).unwrap();
    let mut same = 0;
    for item in items(&seen) {
        let (first, again) = (at(format!("{item}.0")), at(format!("{item}.1")));
        assert!(again > first);
        if first < 20 {
            assert!(again - first > BEFORE_REPEAT, "{first} {again}");
        }
    }
    for past in session.journal.past().filter(|past| past.repeat) {
        let before = session
            .journal
            .past()
            .find(|it| it.item == past.item)
            .unwrap();
        same += usize::from(before.answers == past.answers);
    }
    // The left one is always chosen: half of the repetitions have it on the other side. Four standard errors of 30 are 11.
    assert!((4..=26).contains(&same), "{same}");
}

#[test]
fn steps_are_taken_back_one_by_one_also_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("prefs.jsonl");
    let mut session = open(&file, 6, settings());
    let mut shown = Vec::new();
    for _ in 0..4 {
        let one = show(&mut session, "a");
        session.judge("a", &one.id, left(), None, None).unwrap();
        shown.push(one);
    }
    let rows = fs_err::read_to_string(&file).unwrap();
    let skipped = show(&mut session, "a");
    session
        .judge("a", &skipped.id, Verdict::Skip, None, None)
        .unwrap();
    assert_ne!(show(&mut session, "a").id, skipped.id);
    assert_eq!(session.undo("a").unwrap(), Some(Undone::Skip));
    assert_eq!(show(&mut session, "a"), skipped);
    assert_eq!(fs_err::read_to_string(&file).unwrap(), rows);

    assert!(session.undo("b").unwrap().is_none());
    drop(session);
    let mut session = open(&file, 6, settings());
    for (i, before) in shown.iter().enumerate().rev() {
        let Some(Undone::Judgement(past)) = session.undo("a").unwrap() else {
            panic!("nothing was taken back");
        };
        assert_eq!(past.item, before.item.id);
        assert_eq!(show(&mut session, "a"), *before);
        let kept: String = rows.lines().take(i).map(|row| format!("{row}\n")).collect();
        assert_eq!(fs_err::read_to_string(&file).unwrap(), kept);
    }
    assert_eq!(session.undo("a").unwrap(), None);
    assert_eq!(finish(&mut session, "a").len(), 6);
}

#[test]
fn what_is_no_longer_on_the_screen_is_not_judged_twice() {
    let tmp = tempfile::tempdir().unwrap();
    let mut session = open(&tmp.path().join("prefs.jsonl"), 3, settings());
    let shown = show(&mut session, "a");
    session.judge("a", &shown.id, left(), None, None).unwrap();
    let again = session.judge("a", &shown.id, left(), None, None);
    assert!(matches!(again, Err(Error::NotOnScreen { .. })), "{again:?}");
    let next = show(&mut session, "a").id;
    let wrong = session.judge("a", &next, Verdict::Rating(3), None, None);
    assert!(matches!(wrong, Err(Error::Verdict(_))), "{wrong:?}");
    let empty = Rewritten {
        side: 0,
        text: " ".to_owned(),
    };
    let empty = session.judge("a", &next, left(), Some(empty), None);
    assert!(matches!(empty, Err(Error::Verdict(_))), "{empty:?}");
    assert!(matches!(session.next(" a"), Err(Error::Name(_))));
    assert_eq!(session.journal.past().len(), 1);
}

#[test]
fn skipped_items_come_back_at_the_end_and_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("prefs.jsonl");
    let mut session = open(&file, 4, settings());
    let skipped = show(&mut session, "a");
    session
        .judge("a", &skipped.id, Verdict::Skip, None, None)
        .unwrap();
    let rest = finish(&mut session, "a");
    assert_eq!((rest.len(), rest.last()), (4, Some(&skipped.id)));

    let mut session = open(&tmp.path().join("again.jsonl"), 4, settings());
    let skipped = show(&mut session, "a");
    session
        .judge("a", &skipped.id, Verdict::Skip, None, None)
        .unwrap();
    drop(session);
    let mut session = open(&tmp.path().join("again.jsonl"), 4, settings());
    assert_eq!(show(&mut session, "a"), skipped);
}

#[test]
fn the_same_item_twice_is_shown_once() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = Pool::of([candidates(3), candidates(2)].concat(), 1);
    let strategy = Box::new(Random { seed: 1 });
    let file = tmp.path().join("prefs.jsonl");
    let mut session = Session::open(&file, pool, strategy, settings()).unwrap();
    assert_eq!(session.counts("a"), (0, 3));
    assert_eq!(finish(&mut session, "a").len(), 3);
    assert_eq!(session.counts("a"), (3, 0));
}

#[test]
fn a_session_ends_after_as_many_items_as_it_should_have() {
    let tmp = tempfile::tempdir().unwrap();
    let three = Settings {
        items: Some(3),
        ..settings()
    };
    let file = tmp.path().join("prefs.jsonl");
    let mut session = open(&file, 9, three.clone());
    assert_eq!(session.counts("a"), (0, 3));
    assert!(!session.complete());
    assert_eq!(finish(&mut session, "a").len(), 3);
    assert!(session.complete());
    assert_eq!(session.next("b").unwrap(), Next::Done);
    assert_eq!(session.counts("a"), (3, 0));
    session.undo("a").unwrap();
    assert_eq!(session.counts("a"), (2, 1));
    assert_eq!(finish(&mut session, "a").len(), 1);
    drop(session);
    let mut session = open(
        &file,
        9,
        Settings {
            items: Some(5),
            ..three
        },
    );
    assert_eq!(finish(&mut session, "b").len(), 2);
}

#[test]
fn an_annotator_who_is_gone_leaves_the_item_to_another() {
    let tmp = tempfile::tempdir().unwrap();
    let mut session = open(&tmp.path().join("prefs.jsonl"), 2, settings());
    let first = show(&mut session, "a");
    assert_eq!(finish(&mut session, "b").len(), 1);
    if let Some(desk) = session.desks.get_mut("a") {
        desk.heard_of = Instant::now().checked_sub(2 * PATIENCE).unwrap();
    }
    assert_eq!(finish(&mut session, "b"), [first.id]);
}

#[test]
fn candidates_may_arrive_while_others_are_judged_and_a_failure_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let arrivals = crate::pool::Arrivals::expecting(3);
    let pool = Pool::arriving(&arrivals);
    let strategy = Box::new(Random { seed: 1 });
    let file = tmp.path().join("prefs.jsonl");
    let mut session = Session::open(&file, pool, strategy, settings()).unwrap();
    assert_eq!(session.next("a").unwrap(), Next::Wait);
    assert!(arrivals.wait_until_wanted());
    let mut all = candidates(3);
    arrivals.deliver(all.drain(..1).collect());
    assert_eq!(session.counts("a"), (0, 3));
    let shown = show(&mut session, "a");
    session
        .judge("a", &shown.id, Verdict::Skip, None, None)
        .unwrap();
    assert_eq!(
        session.next("a").unwrap(),
        Next::Wait,
        "not what was skipped"
    );
    session.undo("a").unwrap();
    session.judge("a", &shown.id, left(), None, None).unwrap();
    assert_eq!(session.next("a").unwrap(), Next::Wait);
    arrivals.deliver(all);
    arrivals.finish(None);
    assert_eq!(finish(&mut session, "a").len(), 2);
    assert_eq!(session.next("a").unwrap(), Next::Done);
    arrivals.finish(Some("the model is broken".to_owned()));
    assert!(
        session
            .next("a")
            .unwrap_err()
            .to_string()
            .contains("broken")
    );
    drop(session);
    assert!(!arrivals.wait_until_wanted(), "nobody waits for nobody");
}

#[test]
fn repetitions_and_skipped_items_wait_for_what_is_still_coming() {
    let tmp = tempfile::tempdir().unwrap();
    let arrivals = crate::pool::Arrivals::expecting(40);
    let pool = Pool::arriving(&arrivals);
    let strategy = Box::new(Random { seed: 1 });
    let file = tmp.path().join("prefs.jsonl");
    let often = Settings {
        repeat: 1.0,
        ..settings()
    };
    let mut session = Session::open(&file, pool, strategy, often).unwrap();
    let mut all = candidates(40);
    arrivals.deliver(all.drain(..2).collect());
    let shown = show(&mut session, "a");
    session.judge("a", &shown.id, left(), None, None).unwrap();
    let skipped = show(&mut session, "a");
    let skip = |session: &mut Session| {
        let shown = show(session, "a");
        session
            .judge("a", &shown.id, Verdict::Skip, None, None)
            .unwrap();
    };
    skip(&mut session);
    assert_eq!(session.next("a").unwrap(), Next::Wait);
    // However much is skipped, more is asked for.
    arrivals.deliver(all.drain(..30).collect());
    for _ in 0..30 {
        skip(&mut session);
    }
    assert_eq!(session.next("a").unwrap(), Next::Wait);
    assert!(arrivals.wait_until_wanted());
    arrivals.finish(None);
    assert_eq!(show(&mut session, "a").id, skipped.id);
}
