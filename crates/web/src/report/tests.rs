use rlhf_base::caption::Caption;
use serde_json::{Map, Value, json};

use super::*;

const SECTIONS: &[Section] = &[
    Section {
        table: "sft",
        title: "Fine-tuning",
        captions: &[Caption::main("loss", "Loss", "")],
        findings: |lines| {
            let dead = |line: &&Map<String, Value>| line.get("loss") == Some(&Value::from(9));
            let dead = lines.iter().filter(dead);
            dead.map(|_| "a <dead> model".to_owned()).collect()
        },
    },
    Section {
        table: "ppo",
        title: "PPO",
        captions: &[],
        findings: |_| Vec::new(),
    },
];

fn report(runs: &[Run]) -> String {
    super::report(runs, SECTIONS)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// A run of the stage with this table.
fn run(name: &str, table: &str, metrics: &[Value]) -> Run {
    Run {
        name: name.into(),
        config: format!("[{table}]\nnote = \"</pre><script>\"\n"),
        metrics: metrics.iter().map(object).collect(),
        finished: true,
        ..Run::default()
    }
}

/// A pipeline's folder with its evaluation, and a stage inside.
fn pipeline() -> Vec<Run> {
    let whole = Run {
        name: "runs/<all>".into(),
        evaluation: Some(json!({
            "models": [{"name": "sft", "gold": 0.5, "gold_ci": [0.4, 0.6], "kl": 0.0}, {"name": "p<po>", "gold": 0.9, "kl": 2.0}],
            "reference": "sft", "prompts": 3
        })),
        answers: vec![object(&json!({"prompt": "Q<1>", "answers": {
            "sft": {"text": "A & B", "reward": 0.0}, "p<po>": {"text": "<img onerror=x>", "reward": 1.0}
        }}))],
        ..Run::default()
    };
    let steps = [
        json!({"step": 1, "loss": 2.0}),
        json!({"step": 2, "loss": 1.0}),
    ];
    vec![whole, run("runs/<all>/sft", "sft", &steps)]
}

/// Every tag that is opened is closed, in order: the structure that browsers otherwise guess.
fn balanced(html: &str) {
    let void = ["meta", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let (_, body) = html.split_once("</style>").unwrap();
    let body = body.replacen("</head>", "", 1).replacen("</html>", "", 1);
    for piece in body.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("a tag that ends");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "in {html}");
        } else if !tag.ends_with('/') && !void.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn a_run_that_learns_nothing_carries_a_flag() {
    let of = |loss: u64| report(&[run("runs/<b>", "sft", &[json!({"step": 1, "loss": loss})])]);
    let flagged = of(9);
    assert!(flagged.contains("<p class=\"flag\"><b>runs/&lt;b&gt;</b>: a &lt;dead&gt; model</p>"));
    assert!(!of(1).contains("<p class=\"flag\">"));
}

#[test]
fn everything_from_a_file_is_escaped() {
    let mut ppo = run(
        "runs/<b>x</b>",
        "ppo",
        &[
            json!({"step": 1, "<i>odd</i>": 1.0, "objective/kl": 0.1, "objective/scores": 0.2}),
            json!({"step": 2, "<i>odd</i>": 2.0, "objective/kl": 0.2, "objective/scores": 0.3}),
        ],
    );
    ppo.samples = vec![object(
        &json!({"step": 1, "prompt": "<img onerror=x>", "texts": ["<u>", "a & b"], "logprobs": [0, 0],
                                      "ref_logprobs": [0, 0], "advantages": [1, 1]}),
    )];
    ppo.history = vec![
        object(
            &json!({"event": "started", "machine": "<m>", "rlhf": "<v>", "time": "<t>", "data": {"<d>": "<n>"}, "steps": 2}),
        ),
        object(&json!({"event": "failed", "error": "<e>"})),
    ];
    let mut all = pipeline();
    all.push(ppo);
    let html = report(&all);
    for raw in [
        "<script", "<img", "<i>", "<u>", "<b>x", "a & b", "<m>", "<v>", "<t>", "<d>", "<n>", "<e>",
        "<all>", "<po>", "Q<1>",
    ] {
        assert!(!html.contains(raw), "{raw} came through");
    }
    assert!(html.contains("&lt;img onerror=x&gt;") && html.contains("&lt;i&gt;odd&lt;/i&gt;"));
    balanced(&html);
}

#[test]
fn no_runs_no_metrics_and_one_row_make_a_valid_page() {
    balanced(&report(&[]));
    let empty = report(&[run("a", "sft", &[])]);
    assert!(
        empty.contains("No metrics recorded yet")
            && empty.contains("No numbers have been recorded yet")
    );
    balanced(&empty);
    let one = report(&[run(
        "a",
        "sft",
        &[json!({"step": 1, "loss": 2.0, "note": "text"})],
    )]);
    assert!(
        one.contains("1 number that did not change")
            && !one.contains("NaN")
            && !one.contains("<svg")
    );
    balanced(&one);
}

#[test]
fn the_story_of_a_pipeline_comes_before_its_curves() {
    let html = report(&pipeline());
    let place = |text: &str| {
        html.find(text)
            .unwrap_or_else(|| panic!("{text} in {html}"))
    };
    let order = [
        "raised the gold score from 0.500 to 0.900",
        "What was gained, and how far from the reference",
        "The models</h2>",
        "The learned reward</h2>",
        "What they say",
        "How it was made",
        "Fine-tuning</h2>",
    ];
    assert!(order.map(place).is_sorted(), "{html}");
    assert!(
        html.contains("eval.checkpoints"),
        "it says why there are two points only"
    );
    balanced(&html);
}

#[test]
fn runs_of_one_stage_share_charts_keep_their_colours_and_show_what_differs() {
    let steps: Vec<Value> = (1..=3)
        .map(|i| json!({"step": i, "loss": 1.0 / f64::from(i)}))
        .collect();
    let (a, mut b) = (run("runs/a", "sft", &steps), run("runs/b", "sft", &steps));
    b.config.push_str("lr = 0.5\n");
    let html = report(&[a, b]);
    assert_eq!(html.matches("<figure>").count(), 1);
    assert!(html.contains("line s0") && html.contains("line s1"));
    assert!(
        html.contains("2 runs compared")
            && html.contains("<code>sft.lr</code>")
            && !html.contains("<code>sft.note</code>")
    );
    balanced(&html);
}

#[test]
fn sections_come_in_the_given_order_then_runs_of_no_stage_with_the_captions_of_all() {
    let metrics = [json!({"step": 1, "loss": 2.0})];
    let html = report(&[
        run("c", "run", &metrics),
        run("b", "ppo", &metrics),
        run("a", "sft", &metrics),
    ]);
    let headings: Vec<&str> = (html.split("<h2>").skip(1))
        .filter_map(|part| part.split("</h2>").next())
        .collect();
    // After the names of the three runs.
    assert_eq!(headings[3..], ["Fine-tuning", "PPO", "Other runs"]);
    // "Loss" is the caption; PPO, whose section has none, shows the name of the metric.
    let cells = |name: &str| {
        html.matches(&format!("<th scope=\"row\">{name}</th>"))
            .count()
    };
    assert_eq!((cells("Loss"), cells("loss")), (2, 1));
    balanced(&html);
}

#[test]
fn several_seeds_are_drawn_together() {
    let whole = Run {
        name: "runs/c".into(),
        comparison: Some(json!({"seeds": [0, 1], "paths": [
            {"name": "ppo", "seed": 0, "points": [{"step": 0, "kl": 0.0, "gold": 0.5}, {"step": 1, "kl": 1.0, "gold": 0.6}]},
            {"name": "ppo", "seed": 1, "points": [{"step": 0, "kl": 0.0, "gold": 0.5}]}
        ]})),
        ..Run::default()
    };
    let seed = Run {
        name: "runs/c/seed-0".into(),
        ..pipeline().remove(0)
    };
    let stage = run(
        "runs/c/seed-0/sft",
        "sft",
        &[json!({"step": 1, "loss": 2.0})],
    );
    let html = report(&[whole, seed, stage]);
    assert!(html.contains("with 2 seeds") && html.contains("ppo, seed 1"));
    assert!(
        !html.contains("The models</h2>"),
        "each seed's own table would tell it twice"
    );
    balanced(&html);
}
