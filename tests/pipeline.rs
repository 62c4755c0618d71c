//! `rlhf run`: the stages of one file, and the table.

use serde_json::Value;

use crate::folder::{Folder, PIPELINE, stderr};

fn said(folder: &Folder, line: &str) -> String {
    let output = folder.command(line).output().unwrap();
    assert!(output.status.success(), "rlhf {line}\n{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_pipeline_ends_with_every_model_in_one_table_and_skips_what_is_finished() {
    let folder = Folder::pipeline();
    let result: Value = serde_json::from_str(&folder.done("run all.toml --json --quiet")).unwrap();
    let models = result["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "sft", "best_of_4", "ppo"]);
    // No gold scorer knows these questions; the reward model judges the wins.
    assert!(
        models
            .iter()
            .all(|m| m.get("gold").is_none() && m["reward"].is_number() && m["kl"].is_number())
    );
    assert_eq!(models[1]["kl"], 0.0);
    // log 4 − 3/4.
    assert!((models[2]["kl"].as_f64().unwrap() - 0.636_294).abs() < 1e-6);
    assert_eq!(models[2]["kl_bound"], true);
    assert!(models[3].get("kl_bound").is_none());
    assert!(models[2]["reward"].as_f64() >= models[1]["reward"].as_f64());
    assert!(models[3]["win_rate_ci"][0].as_f64() <= models[3]["win_rate"].as_f64());

    // The help of a stage names everything that lies in its folder.
    let help = folder.done("ppo --help");
    for stage in ["sft", "reward", "ppo"] {
        for entry in fs_err::read_dir(folder.path(&format!("runs/all/{stage}"))).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.split(".tfevents").next().unwrap();
            assert!(help.contains(name), "{name} is not in\n{help}");
        }
    }

    let again = said(&folder, "run all.toml");
    for stage in [
        "sft: skipped",
        "reward: skipped",
        "ppo: skipped",
        "evaluation: nothing has changed",
    ] {
        assert!(again.contains(stage), "{stage} is not in {again}");
    }
    // A changed setting of the last stage leaves the others alone; changed data of the first reaches them all.
    let changed = said(&folder, "run all.toml --set ppo.kl_coef=0.2");
    assert!(
        changed.contains("sft: skipped") && changed.contains("reward: skipped"),
        "{changed}"
    );
    assert!(changed.contains("ppo: running again"), "{changed}");
    let demos = folder.read("demos.jsonl").replace(" red.", " blue.");
    folder.write("demos.jsonl", &demos);
    let changed = said(&folder, "run all.toml");
    assert!(!changed.contains("skipped"), "{changed}");
}

#[test]
fn a_pipeline_reports_itself() {
    let folder = Folder::pipeline();
    folder.done("run all.toml --quiet");
    let said: Value =
        serde_json::from_str(&folder.done("report runs/all --out page.html --json")).unwrap();
    // The three stages, and the folder that holds them with the result.
    assert_eq!(said, serde_json::json!({"out": "page.html", "runs": 4}));
    let page = folder.read("page.html");
    for part in [
        "<h1>runs/all</h1>",
        "held-out prompts, ppo ",
        "over KL",
        "What they say",
        "<h2>Supervised fine-tuning</h2>",
        "<h2>Reward model</h2>",
        "<h2>PPO</h2>",
        "rlhf 0.",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Not yet compared, a pipeline is one all the same.
    fs_err::remove_file(folder.path("runs/all/evaluation.json")).unwrap();
    folder.done("report runs/all --out page.html");
    assert!(
        folder
            .read("page.html")
            .contains("have not been compared yet")
    );
    let refused = folder.refused("report runs/all --port 8000");
    assert!(refused.contains("--live"), "{refused}");
}

/// The rule of data sets: of N distinct prompts, in the order of the file, ⌊N·share⌋ are held out, evenly spread, here the fourth and the
/// eighth of eight.
#[test]
fn what_is_held_out_need_not_be_named_and_is_not_trained_on() {
    let folder = Folder::pipeline();
    let own = PIPELINE.replace(
        "eval_prompts = [\"prompts.jsonl\"]\n",
        "eval_fraction = 0.25\nlog_samples = 4\n",
    );
    folder.write("all.toml", &own);
    let result: Value = serde_json::from_str(&folder.done("run all.toml --json --quiet")).unwrap();
    assert_eq!(result["prompts"], 2);
    let asked = folder.read("runs/all/answers.jsonl");
    let asked: Vec<Value> = asked
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let held_out = ["What colour is thing 3?", "What colour is thing 7?"];
    assert_eq!(asked[0]["prompt"], held_out[0]);
    assert_eq!(asked[1]["prompt"], held_out[1]);
    for line in folder.read("runs/all/ppo/samples.jsonl").lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        if sample["kind"] == "rollout" {
            let prompt = sample["prompt"].as_str().unwrap();
            assert!(!held_out.contains(&prompt), "{line}");
        }
    }
    let checks = folder.done("doctor all.toml");
    assert!(
        checks.contains("every model answers 2 held-out prompts: the share of 0.25"),
        "{checks}"
    );

    // Without PPO the questions are those that the last stage with data holds out: of twelve the fourth, the eighth and the twelfth.
    let dpo = "[run]\nout = 'runs/dpo'\n[sft]\nmodel = 'base'\ndata = ['demos.jsonl']\n[dpo]\nprefs = ['prefs.jsonl']\neval_fraction = 0.25\n";
    folder.write("dpo.toml", dpo);
    folder.done("run dpo.toml --quiet");
    let asked = folder.read("runs/dpo/answers.jsonl");
    let asked: Vec<Value> = asked
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (row, number) in asked.iter().zip([3, 7, 11]) {
        assert_eq!(row["prompt"], format!("What colour is thing {number}?"));
    }
    assert_eq!(asked.len(), 3);

    folder.write("all.toml", &own.replace("0.25", "0"));
    let said = folder.refused("run all.toml");
    assert!(said.contains("eval.prompts"), "{said}");
}

#[test]
fn data_of_ones_own_and_the_bundled_data_do_not_mix() {
    let folder = Folder::pipeline();
    for (line, missing) in [
        ("data = [\"demos.jsonl\"]", "sft.data"),
        ("prefs = [\"prefs.jsonl\"]", "reward.prefs"),
        (
            "prompts = [\"prompts.jsonl\"]\neval_prompts = [\"prompts.jsonl\"]",
            "ppo.prompts",
        ),
    ] {
        folder.write("part.toml", &PIPELINE.replace(line, ""));
        for command in ["run", "doctor"] {
            let said = folder.refused(&format!("{command} part.toml"));
            assert!(said.contains(&format!("name {missing} too")), "{said}");
        }
    }
    assert!(!folder.path("runs").exists());
    // One stage alone asks the run that it starts from.
    folder.done("sft --model base --data demos.jsonl --quiet");
    for (line, flag) in [
        ("reward", "--prefs"),
        ("ppo --reward length:4", "--prompts"),
    ] {
        let said = folder.refused(line);
        assert!(
            said.contains("(demos.jsonl)") && said.contains(flag),
            "{said}"
        );
    }
    folder.done("ppo --reward length:4 --prompts demos.jsonl --quiet");
}

#[test]
fn variants_run_beside_their_stage_and_seeds_beside_each_other() {
    let folder = Folder::pipeline();
    let variants = "save_every = 1\n[ppo.variants.rloo]\nadvantage = \"rloo\"\nsamples_per_prompt = 2\n[eval]\ncheckpoints = true\n";
    folder.write("all.toml", &(folder.read("all.toml") + variants));
    let line = "run all.toml --seeds 2 --seed 5 --json";
    let result: Value = serde_json::from_str(&folder.done(&format!("{line} --quiet"))).unwrap();
    let models = result["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "sft", "best_of_4", "ppo", "rloo"]);
    assert_eq!(result["seeds"], serde_json::json!([5, 6]));
    // From the reference over the checkpoints of steps 1 and 2 to what was published after step 3.
    let paths = result["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 4);
    for path in paths {
        let points = path["points"].as_array().unwrap();
        let steps: Vec<_> = points.iter().map(|p| p["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 1, 2, 3]);
        assert_eq!(points[0]["kl"], 0.0);
    }
    for model in &models[3..] {
        assert!(model["seconds"].as_f64().unwrap() > 0.0, "{model}");
        let kl = &model["kl"];
        assert!(kl["lowest"].as_f64() <= kl["mean"].as_f64(), "{kl}");
    }
    for made in [
        "comparison.html",
        "comparison.svg",
        "comparison.json",
        "seed-5/ppo/cost.json",
        "seed-6/rloo/final/model.safetensors",
    ] {
        assert!(folder.path(&format!("runs/all/{made}")).exists(), "{made}");
    }
    let again = said(&folder, line);
    assert_eq!(again.matches("rloo: skipped").count(), 2, "{again}");
    let checks = folder.done("doctor all.toml");
    assert!(checks.contains("\nrloo\n"), "{checks}");
    let checks = folder.done("doctor all.toml --set run.seeds=2 --seed 5");
    assert!(
        checks.contains("runs/all/seed-5/rloo is finished"),
        "{checks}"
    );
    let refused = folder.refused("ppo --set run.seeds=2");
    assert!(refused.contains("run.seeds is 2"), "{refused}");
}

/// By hand from the answers: the share of them that the pattern occurs in, and how often that is more or less than at the reference.
#[test]
fn a_second_opinion_scores_every_answer_and_decides_the_wins() {
    let folder = Folder::pipeline();
    let line = "run all.toml --quiet --set eval.judge";
    assert!(
        folder
            .refused(&format!("{line}=runs/nowhere"))
            .contains("eval.judge")
    );
    assert!(!folder.path("runs/all").exists(), "known before training");
    let checkpoints = "--set eval.checkpoints=true --set ppo.save_every=1";
    let result = folder.done(&format!("{line}=regex:[aeiou] {checkpoints} --json"));
    let result: Value = serde_json::from_str(&result).unwrap();
    let answers: Vec<Value> = (folder.read("runs/all/answers.jsonl").lines())
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    let occurs = |name: &str| -> Vec<f64> {
        let texts = answers.iter().map(|row| &row["answers"][name]["text"]);
        let vowel = |text: &Value| text.as_str().unwrap().contains(['a', 'e', 'i', 'o', 'u']);
        texts.map(|text| f64::from(u8::from(vowel(text)))).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let near = |a: &Value, b: f64| (a.as_f64().unwrap() - b).abs() < 1e-12;
    for model in result["models"].as_array().unwrap() {
        let own = occurs(model["name"].as_str().unwrap());
        assert!(near(&model["judge"], mean(&own)), "{model}");
        let wins = own.iter().zip(occurs("sft"));
        let wins: Vec<f64> = wins.map(|(a, b)| (1.0 + a - b) / 2.0).collect();
        if model["name"] != "sft" {
            assert!(near(&model["win_rate"], mean(&wins)), "{model}");
        }
    }
    let points = result["paths"][0][1].as_array().unwrap();
    assert!(
        points.iter().all(|point| point["judge"].is_number()),
        "{points:?}"
    );
    folder.done("report runs/all --out page.html");
    let page = folder.read("page.html");
    assert!(page.contains(">second opinion</text>") && page.contains(">Second opinion</th>"));
}
