use super::*;
use rlhf_base::Text;

fn item(judgement: Judgement, lengths: &[usize], source: &str) -> Item {
    Item {
        prompt: vec![1],
        responses: lengths.iter().map(|n| vec![0; *n]).collect(),
        judgement,
        source: Some(source.into()),
        whole: true,
        texts: (Text::Plain(String::new()), Vec::new()),
    }
}

fn ranks(ranks: &[f64]) -> Judgement {
    Judgement::Ranks {
        ranks: ranks.to_vec(),
        margin: 0.0,
        preference: 1.0,
    }
}

/// Counted by hand: of the comparisons below three are right, one is tied, one is wrong.
#[test]
fn accuracy_counts_strict_preferences_and_half_of_equal_scores() {
    let items = [
        item(ranks(&[1.0, 2.0]), &[5, 3], "a"),
        item(ranks(&[1.0, 2.0]), &[3, 5], "b"),
        item(ranks(&[1.0, 2.0, 2.0]), &[4, 4, 20], "b"),
        item(ranks(&[2.0, 1.0]), &[4, 4], "a"),
    ];
    let scores = vec![
        vec![2.0, 1.0],
        vec![0.0, 1.0],
        vec![3.0, 1.0, 2.0],
        vec![0.5, 0.5],
    ];
    let report = report(&items, &scores, Counts::default());
    let accuracy = report.accuracy.unwrap();
    assert_eq!((accuracy.value, accuracy.n), (3.5 / 5.0, 5));
    assert!(accuracy.low <= accuracy.value && accuracy.value <= accuracy.high);
    // Longer wins: right, wrong, tie, wrong, tie.
    assert_eq!(report.longer_wins.unwrap().value, 2.0 / 5.0);
    assert_eq!(report.by_source["a"].value, 1.5 / 2.0);
    assert_eq!(
        report.by_length_gap["preferred shorter by 10 or more"].value,
        1.0
    );
    assert_eq!(report.by_length_gap["same length"].value, 1.5 / 2.0);
    assert_eq!(report.calibration.iter().map(|b| b.n).sum::<usize>(), 5);
}

/// By hand: rows about one prompt count as one, and a single one says little.
#[test]
fn rows_about_one_prompt_count_as_one() {
    let of = |prompt: u32| Item {
        prompt: vec![prompt],
        texts: (Text::from("a prompt"), Vec::new()),
        ..item(ranks(&[1.0, 2.0]), &[1, 1], "a")
    };
    let scores = [vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0]];
    let of_prompts = |prompts: [u32; 3]| {
        let items = prompts.map(of);
        report(&items, &scores, Counts::default()).accuracy.unwrap()
    };
    let share = |prompts, n| {
        let found = of_prompts(prompts);
        assert_eq!((found.value, found.n), (2.0 / 3.0, 3));
        assert_eq!(
            (found.low, found.high),
            statistics::wilson_interval(2.0 / 3.0, n)
        );
    };
    share([7, 7, 7], 1.0);
    share([7, 8, 9], 3.0);
}

/// Two of two is little evidence, 34 to 100 %; of forty, chance and length decide.
#[test]
fn an_accuracy_that_chance_or_length_explains_is_told() {
    let of = |right: u32, longer: u32, all: u32| {
        let item = |i: u32| Item {
            prompt: vec![i],
            texts: (Text::Plain(i.to_string()), Vec::new()),
            ..item(
                ranks(&[1.0, 2.0]),
                if i < longer { &[2, 1] } else { &[1, 2] },
                "a",
            )
        };
        let items: Vec<Item> = (0..all).map(item).collect();
        let scores = (0..all).map(|i| {
            if i < right {
                vec![1.0, 0.0]
            } else {
                vec![0.0, 1.0]
            }
        });
        report(&items, &scores.collect::<Vec<_>>(), Counts::default())
    };
    let few = of(2, 1, 2);
    assert!(
        few.to_string().contains("100.0 %  [34.2, 100.0]  of 2"),
        "{few}"
    );
    assert!(few.warnings[0].contains("100.0 % [34.2, 100.0] of 2, cannot be told from chance"));
    assert_eq!(of(36, 20, 40).warnings, [""; 0]);
    assert!(of(4, 0, 40).warnings[0].contains("below chance"));
    let length = of(30, 34, 40);
    assert_eq!(length.warnings.len(), 1, "{:?}", length.warnings);
    assert!(
        length.to_string().contains("warning: the accuracy, 75.0 %")
            && length.warnings[0].contains("length")
    );
    assert!(serde_json::to_value(&length).unwrap()["warnings"].is_array());
}

#[test]
fn prompts_that_were_trained_on_cut_or_left_out_are_counted() {
    let of = |prompt: u32, whole: bool| Item {
        prompt: vec![prompt],
        whole,
        texts: (Text::from("a prompt"), Vec::new()),
        ..item(ranks(&[1.0, 2.0]), &[1, 1], "a")
    };
    let held_out = [of(1, true), of(2, false), of(2, true)];
    let counts = Counts::of(&held_out, 5, Some(&[of(2, true), of(3, true)]));
    let expected = Counts {
        prompts: 3,
        cut: 1,
        identical: 5,
        trained_on: Some(2),
    };
    assert_eq!(counts, expected);
    let report = Report {
        counts,
        ..Report::default()
    };
    assert!(report.to_string().contains("trained on too"));
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(
        (&json["identical"], &json["trained_on"]),
        (&json!(5), &json!(2))
    );
}

#[test]
fn each_kind_of_feedback_gets_its_own_measure() {
    let items = [
        item(Judgement::Rating(1.0), &[1], "r"),
        item(Judgement::Rating(2.0), &[1], "r"),
        item(Judgement::Rating(4.0), &[1], "r"),
        item(Judgement::Thumbs(true), &[1], "t"),
        item(Judgement::Thumbs(false), &[1], "t"),
    ];
    let scores = vec![vec![0.1], vec![0.2], vec![0.9], vec![1.0], vec![-1.0]];
    let report = report(&items, &scores, Counts::default());
    assert_eq!(report.accuracy, None);
    assert_eq!((report.spearman, report.auc), (Some(1.0), Some(1.0)));
}
