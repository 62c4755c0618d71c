//! `rlhf eval`.

use std::path::Path;

use anyhow::Context as _;
use rlhf_base::tell;
use rlhf_dataset::{Feedback, Loaded, Placed, Row};
use rlhf_lm::{Calibration, CausalLm, RewardCard, RewardModel, ScalarModel};
use rlhf_rollout::load_heads;
use rlhf_sft::{Rows, mean_loss};
use rlhf_train::feedback::{self, Counts, Items};
use rlhf_train::{micro_batch_tokens, read_and_tell, row_limit, tell_skipped};
use serde_json::json;

use crate::bundled;
use crate::data_files::found;
use crate::evaluation::{Lineup, evaluate};
use crate::exit::usage;
use crate::flags::EvalArgs;
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;
use crate::output::print_result;
use crate::questions::Questions;
use crate::settings::{EVAL, EvalSettings, Layers, RunSettings};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let layers = Layers::read(args.config.as_deref(), &args.set)?;
    let run = args.common.run();
    let machine = Machine::new(&run, args.common.quiet)?;
    match (&args.model, &args.against, &args.reward) {
        (Some(model), Some(against), reward) => {
            let settings: EvalSettings = layers.get(EVAL)?;
            let ppo: rlhf_ppo::Config = layers.get("ppo")?;
            compare(
                args,
                model,
                against,
                reward.as_deref(),
                &settings,
                &ppo,
                &run,
                &machine,
            )
        }
        (Some(_), None, Some(_)) => Err(usage!(
            "--model with --reward compares two models, and needs the second: --against MODEL"
        )),
        (Some(model), None, None) => held_out_loss(args, &model_folder(model, "sft")?, &machine),
        (None, _, Some(reward)) => report(args, &model_folder(reward, "reward")?, &machine),
        (None, _, None) => Err(usage!("nothing to measure: give --model or --reward")),
    }
}

fn required(args: &EvalArgs) -> anyhow::Result<()> {
    if args.data.is_empty() {
        return Err(usage!("--data is missing: the rows to measure on"));
    }
    Ok(())
}

fn held_out_loss(args: &EvalArgs, folder: &Path, machine: &Machine) -> anyhow::Result<()> {
    required(args)?;
    let Loaded {
        rows,
        mut tolerance,
        ..
    } = read_and_tell::<Row>(&found(&args.data)?, &args.reading.reading())?;
    let (mut texts, mut demonstrations) = (Vec::new(), Vec::new());
    for Placed { record, place } in rows {
        match record {
            Row::Text(record) => texts.push(Placed { record, place }),
            Row::Demonstration(record) => demonstrations.push(Placed { record, place }),
            other => {
                return Err(usage!(
                    "{place}: a row of kind {}; a language model is measured on texts or demonstrations",
                    other.kind().name()
                ));
            }
        }
    }
    let model = machine.load(folder)?;
    let tokenizer = (model.tokenizer)
        .allow_special(args.allow_special)
        .take_raw(args.raw);
    let causal = CausalLm::new(&model.config, &model.params.frozen())?;
    let max_length = row_limit("eval", args.max_length, &model.config);
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    if !texts.is_empty() {
        let encoded = Rows::of_written_texts(&tokenizer, &texts, max_length)?;
        rows.extend(encoded.rows);
        told.extend(encoded.told);
    }
    if !demonstrations.is_empty() {
        let encoded = Rows::from_demonstrations(
            &tokenizer,
            &demonstrations,
            max_length,
            false,
            &mut tolerance,
        )?;
        let lost = "left out: nothing to measure within the limit";
        let cut = format!("cut at {max_length} tokens (--max-length)");
        let said = [encoded.cut.sentence(&cut), encoded.lost.sentence(lost)];
        told.extend(said.into_iter().flatten().chain(encoded.told));
        rows.extend(encoded.rows);
    }
    for line in told {
        tracing::warn!("{line}");
    }
    tell_skipped(&tolerance);
    let tokens = micro_batch_tokens(&model.config, false, &machine.device);
    let loss = mean_loss(&causal, &rows, tokens, &machine.comm)?;
    let tokens: usize = rows.iter().map(|row| row.num_targets()).sum();
    let (perplexity, rows) = (loss.exp(), rows.len());
    let counted = [
        (
            !texts.is_empty(),
            "the texts as written, without an end token",
        ),
        (
            !demonstrations.is_empty(),
            "the answers, each with its end token",
        ),
    ];
    let counted: Vec<_> = counted
        .iter()
        .filter(|(any, _)| *any)
        .map(|(_, what)| *what)
        .collect();
    let counted = counted.join("; ");
    let result = json!({
        "loss": loss, "perplexity": perplexity, "rows": rows, "tokens": tokens, "counted": counted,
    });
    print_result(args.json, &result, || {
        format!(
            "loss {loss:.4} nats a token, perplexity {perplexity:.3}, over {tokens} tokens of {rows} rows\n\
             counted: {counted}\n"
        )
    })
}

fn report(args: &EvalArgs, folder: &Path, machine: &Machine) -> anyhow::Result<()> {
    required(args)?;
    if args.calibrate && !rlhf_ops::computes_in_f32(machine.dtype) {
        return Err(usage!("--calibrate measures in f32: leave out --dtype"));
    }
    let mut feedback = read_and_tell::<Feedback>(&found(&args.data)?, &args.reading.reading())?;
    let model = machine.load_reward(folder)?;
    let tokenizer = model.tokenizer().clone().allow_special(args.allow_special);
    let max_length = row_limit("eval", args.max_length, model.config());
    let items = Items::from_feedback(
        &tokenizer,
        &feedback.rows,
        max_length,
        0.0,
        &mut feedback.tolerance,
    )?;
    tell_skipped(&feedback.tolerance);
    let cut = format!("cut at {max_length} tokens (--max-length)");
    let identical = "left out: all responses are the same";
    let said = [
        items.cut.sentence(&cut),
        items.identical.sentence(identical),
    ];
    for line in said
        .into_iter()
        .flatten()
        .chain(items.notes.told(&tokenizer))
    {
        tracing::warn!("{line}");
    }
    let scalar = ScalarModel::new(model.config(), &model.params().frozen())?;
    let micro_batch_tokens = micro_batch_tokens(model.config(), false, &machine.device);
    let counts = Counts::of(&items.items, items.identical.rows, None);
    let scores = rlhf_reward::raw_scores(&scalar, &items.items, micro_batch_tokens, &machine.comm)?;
    let report = feedback::report(&items.items, &scores, counts);
    let scale = match args.calibrate {
        true => Some(calibrate(folder, &model, &items, &scores)?),
        false => None,
    };
    let mut result = serde_json::to_value(&report)?;
    if let Some(scale) = &scale {
        result["scale"] = serde_json::to_value(scale)?;
    }
    print_result(args.json, &result, || {
        let scale = scale.map(|scale| {
            format!(
                "scores of {} responses: mean {:.4}, standard deviation {:.4}, now in {}\n",
                scale.responses,
                scale.mean,
                scale.std,
                folder.join("reward.json").display()
            )
        });
        report.to_string() + &scale.unwrap_or_default()
    })
}

/// Measures the scale of the model's scores and keeps it with the model.
fn calibrate(
    folder: &Path,
    model: &RewardModel,
    items: &Items,
    scores: &[Vec<f64>],
) -> anyhow::Result<Calibration> {
    let (scale, probes) = rlhf_reward::calibrate(&items.items, scores)?;
    let heads = match &model.card().heads {
        None => None,
        Some(_) => {
            let (heads, _) = load_heads(folder, model)?;
            let scalar = ScalarModel::new(model.config(), &model.params().frozen())?;
            let most = micro_batch_tokens(model.config(), false, model.params().device());
            Some(rlhf_reward::heads_card(&heads, &scalar, &items.items, most)?.0)
        }
    };
    let card = RewardCard {
        calibration: Some(scale),
        probes,
        heads,
        ..model.card().clone()
    };
    RewardModel::save_card(folder, &card)
        .with_context(|| format!("keeping the scale in {}", folder.display()))?;
    Ok(scale)
}

fn compare(
    args: &EvalArgs,
    model: &str,
    against: &str,
    reward: Option<&str>,
    settings: &EvalSettings,
    ppo: &rlhf_ppo::Config,
    run: &RunSettings,
    machine: &Machine,
) -> anyhow::Result<()> {
    let lineup = Lineup {
        on_the_way: Vec::new(),
        before: Vec::new(),
        reference: (against.to_owned(), model_folder(against, "sft")?),
        after: vec![(model.to_owned(), model_folder(model, "ppo")?)],
        reward: reward.map(reward_source).transpose()?,
    };
    let mut questions = Questions::new(settings, ppo, run.seed)?;
    if !args.prompts.is_empty() {
        questions.files.clone_from(&args.prompts);
        questions.kept_back = None;
        questions.reading = args.reading.reading();
    }
    questions.files = found(&questions.files)?;
    if questions.files.is_empty() {
        tell("no --prompts given: using the bundled held-out prompts of the Tiny World");
        questions.files = vec![bundled::path(bundled::HELD_OUT_PROMPTS)?];
    }
    let evaluation = evaluate(&lineup, &questions, machine)?;
    print_result(args.json, &evaluation, || evaluation.render())
}
