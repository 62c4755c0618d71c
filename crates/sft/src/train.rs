//! The training loop of pretraining and of supervised fine-tuning: the same loss over different rows.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use rlhf_dataset::order::{micro_batches, step_rows};
use rlhf_dataset::read_demonstrations;
use rlhf_lm::{
    CausalLm, Example, ExampleBatch, Gradients, LanguageModel, SaveDtype, Tokenizer, Weights,
};
use rlhf_train::{
    Checkpoint, Course, Interrupted, MemoryItem, Plan, Progress, Recipe, Session, check_finite,
    check_update, recipe,
};
use serde_json::{Map, json};

use crate::config::Config;
use crate::eval::mean_loss;
use crate::rows::Rows;

/// What a finished run has to say for itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Optimizer steps made.
    pub steps: u64,
    /// Loss per target token of the last step, in nats.
    pub loss: f64,
    /// Loss per target token on held-out rows, in nats, if there were any.
    pub eval_loss: Option<f64>,
}

/// Fine-tunes `config.model` on demonstrations; the model ends up in the run's `final/`.
pub fn train(config: &Config, session: &mut Session) -> Result<Outcome> {
    let begun = Instant::now();
    let path = Path::new(&config.model);
    let model = LanguageModel::load(path, Weights::Trainable, session.dtype, &session.device)
        .with_context(|| format!("loading the model to fine-tune from {}", config.model))?;
    tracing::info!("model loaded in {:.2} s", begun.elapsed().as_secs_f64());
    let loaded = Instant::now();
    let load = |paths| -> Result<Rows> {
        let demonstrations = read_demonstrations(paths, config.skip_bad)?;
        for bad in &demonstrations.skipped {
            tracing::warn!("skipped {bad}");
        }
        Rows::from_demonstrations(
            &model.tokenizer,
            &demonstrations.rows,
            config.max_length,
            config.train_on_prompt,
        )
    };
    let mut rows = load(&config.data)?;
    if rows.cut > 0 {
        tracing::warn!(
            "{} rows were cut at {} tokens, {} of them lost",
            rows.cut,
            config.max_length,
            rows.lost
        );
    }
    let held_out = if config.eval_data.is_empty() {
        let keep = rows.rows.len() - (rows.rows.len() as f64 * config.eval_fraction) as usize;
        rows.rows.split_off(keep)
    } else {
        load(&config.eval_data)?.rows
    };
    ensure!(
        !rows.rows.is_empty(),
        "no rows are left to train on: all were kept back for evaluation"
    );
    let recipe = recipe!("sft", "row", config);
    let outcome = fit(&recipe, &model, &rows.rows, &held_out, loaded, session)?;
    publish(&model, SaveDtype::F32, session)?;
    Ok(outcome)
}

/// Minimises the loss per target token over `rows` with AdamW. The model was there at `loaded`.
pub(crate) fn fit(
    recipe: &Recipe,
    language_model: &LanguageModel,
    rows: &[Example],
    held_out: &[Example],
    loaded: Instant,
    session: &mut Session,
) -> Result<Outcome> {
    let params = &language_model.params;
    let model =
        CausalLm::new(&language_model.config, params)?.gradient_checkpointing(session.recompute);
    let evaluated = CausalLm::new(&language_model.config, &params.frozen())?;
    let mut optimizer = recipe.optimizer();
    let course = recipe.course(rows.len(), &language_model.config, session.recompute)?;
    let Course {
        per_epoch,
        steps,
        schedule,
        micro_tokens,
    } = course;
    session
        .progress
        .say(&plan(recipe, language_model, rows, &course, session)?.to_string());

    let mut first = 0;
    if session.resume
        && let Some(checkpoint) = session.dir.checkpoint_latest()?
    {
        checkpoint.restore(params, &mut optimizer)?;
        first = checkpoint.step;
        tracing::info!("resuming after step {first}");
    }
    let mut metrics = session.dir.metrics()?;
    let mut progress = Progress::new(session.progress, recipe.stage, steps, "step");
    let mut outcome = Outcome {
        steps,
        loss: f64::NAN,
        eval_loss: None,
    };

    tracing::info!(
        "the first step begins {:.2} s after the model was there",
        loaded.elapsed().as_secs_f64()
    );
    for step in first..steps {
        let begun = Instant::now();
        let order = step_rows(session.seed, rows.len(), recipe.batch, recipe.shuffle, step);
        let batch: Vec<&Example> = order.iter().map(|&i| &rows[i]).collect();
        let tokens: usize = batch.iter().map(|row| row.ids().len()).sum();
        let targets: usize = batch.iter().map(|row| row.num_targets()).sum();

        let mut gradients = Gradients::new();
        let mut total = Tensor::zeros((), candle_core::DType::F32, &session.device)?;
        let lengths: Vec<usize> = batch.iter().map(|row| row.ids().len()).collect();
        for micro in micro_batches(&lengths, micro_tokens) {
            let packed = ExampleBatch::pack(&batch[micro], &session.device)?;
            let loss = packed.loss(&model, targets)?;
            gradients.accumulate(params, &loss)?;
            total = (total + loss.detach())?;
        }
        outcome.loss = f64::from(Gradients::read(&total, &[&gradients])?[0]);
        if step == first {
            gradients.check_all(params)?;
        }
        check_finite(step + 1, "the loss", outcome.loss)?;
        let lr = schedule.lr(recipe.lr, step);
        let grad_norm = optimizer
            .step(params, &gradients, lr, recipe.clip())
            .with_context(|| format!("step {}", step + 1))?;
        drop(gradients);

        let done = step + 1;
        let mut line = Map::new();
        line.insert("loss".into(), json!(outcome.loss));
        line.insert("grad_norm".into(), json!(grad_norm));
        line.insert("lr".into(), json!(lr));
        line.insert("tokens".into(), json!(tokens));
        line.insert("epoch".into(), json!(done as f64 / per_epoch as f64));
        let seconds = begun.elapsed().as_secs_f64();
        line.insert("time/step".into(), json!(seconds));
        line.insert("tokens_per_second".into(), json!(tokens as f64 / seconds));
        metrics.log(done, &line)?;
        if !held_out.is_empty()
            && (done == steps || recipe.eval_every > 0 && done % recipe.eval_every == 0)
        {
            let loss = mean_loss(&evaluated, held_out, micro_tokens)?;
            let line = Map::from_iter([
                ("eval/loss".to_owned(), json!(loss)),
                ("eval/perplexity".to_owned(), json!(loss.exp())),
            ]);
            metrics.log(done, &line)?;
            outcome.eval_loss = Some(loss);
        }
        progress.tick(done, &[("loss", outcome.loss)], tokens as u64);

        let stop = session.interrupt.requested() && done < steps;
        let save = stop || recipe.save_every > 0 && done % recipe.save_every == 0 && done < steps;
        if save || done == steps {
            let packed = ExampleBatch::pack(&batch[..1], &session.device)?;
            let loss = packed.loss(&model, batch[0].num_targets())?;
            check_update(done, params, &loss)?;
        }
        if save {
            let checkpoint = Checkpoint::of(done, params, &optimizer)?;
            session.dir.checkpoint_save(&checkpoint, 2)?;
        }
        if stop {
            return Err(Interrupted { step: done }.into());
        }
    }
    progress.finish();
    Ok(outcome)
}

/// Writes the run's `final/`.
pub(crate) fn publish(model: &LanguageModel, dtype: SaveDtype, session: &Session) -> Result<()> {
    session.dir.publish(|folder| Ok(model.save(folder, dtype)?))
}

/// What is about to happen, for the user to read before anything is spent.
fn plan(
    recipe: &Recipe,
    model: &LanguageModel,
    rows: &[Example],
    course: &Course,
    session: &Session,
) -> Result<Plan> {
    let tokens: usize = rows.iter().map(|row| row.ids().len()).sum();
    let targets: usize = rows.iter().map(Example::num_targets).sum();
    let parameters = model.params.num_trainable() as u64;
    let per_step = tokens as f64 * recipe.batch as f64 / rows.len() as f64;
    let mut memory = MemoryItem::trained("model", parameters).to_vec();
    let micro_tokens = course.micro_tokens;
    let held = (per_step as u64).min(micro_tokens as u64);
    memory.push(MemoryItem::activations(
        held,
        &model.config,
        session.recompute,
    ));
    Ok(Plan {
        stage: recipe.stage.into(),
        model: model.config.model_type().into(),
        parameters,
        data: vec![(
            "rows".into(),
            format!(
                "{}, {tokens} tokens, {targets} of them carry loss",
                rows.len()
            ),
        )],
        batch: format!(
            "{} rows a step, about {per_step:.0} tokens, in micro-batches of at most {micro_tokens} tokens",
            recipe.batch
        ),
        steps: course.steps,
        tokens: (per_step * course.steps as f64) as u64,
        memory,
        device: session.describe_device(),
        example: marked(&model.tokenizer, &rows[0])?,
    })
}

/// A row as text, in pieces that carry loss or do not.
fn marked(tokenizer: &Tokenizer, row: &Example) -> Result<Vec<(String, bool)>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in 1..=row.ids().len() {
        if end == row.ids().len() || row.targets()[end] != row.targets()[start] {
            pieces.push((
                tokenizer.decode_with_special(&row.ids()[start..end])?,
                row.targets()[start],
            ));
            start = end;
        }
    }
    Ok(pieces)
}
