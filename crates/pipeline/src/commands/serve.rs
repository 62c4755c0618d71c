//! `rlhf serve`: OpenAI's HTTP API and a chat page over the models of this machine.

mod answering;
mod votes;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use rlhf_lm::serving::{Limits, Queue, serve};
use rlhf_lm::{CausalLm, LanguageModel};
use rlhf_web::chat::{Chat, Votes, page};
use rlhf_web::openai::api;

use self::answering::{Answering, Served};
use self::votes::Kept;
use crate::exit::usage;
use crate::flags::ServeArgs;
use crate::locate::model_folder;
use crate::machine::{Machine, on_ctrl_c};
use crate::memory::memory;
use crate::page::{announce, listen};

/// Requests that wait beyond those that are answered.
const WAITING: usize = 256;

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    if !args.format.contains("{}") {
        return Err(usage!(
            "--format \"{}\" has no {{}}: it says where the message goes",
            args.format
        ));
    }
    if args.batch == 0 {
        return Err(usage!("--batch 0 answers nobody: expected at least 1"));
    }
    let server = listen(&args.listening)?;
    let kept = match &args.save {
        Some(file) => Some(Kept::open(file)?),
        None => None,
    };
    let machine = Machine::apart(&args.common.run(), args.common.quiet)?;
    let mut models = vec![load(&machine, &args.answering.model)?];
    if let Some(against) = &args.against {
        models.push(load(&machine, against)?);
        if models[0].0 == models[1].0 {
            return Err(usage!(
                "--against is called {} as --model is, and a request could not tell them apart",
                models[0].0
            ));
        }
    }
    let converses = check_templates(args, &models)?;
    let answering = Arc::new(Answering::new(models.iter().map(|(name, model)| Served {
        name: name.clone(),
        tokenizer: model.tokenizer.clone(),
        queue: Arc::new(Queue::new(limits(args, model, models.len()))),
        format: args.format.clone(),
    })));
    let router = api(answering.clone()).merge(page(Chat {
        models: answering.clone(),
        converses,
        votes: kept.map(|kept| Arc::new(kept) as Arc<dyn Votes>),
        seed: args.common.seed,
    }));
    on_ctrl_c(&machine.interrupt, "\nending")?;
    let causal = models
        .iter()
        .map(|(_, model)| CausalLm::new(&model.config, &model.params.frozen()))
        .collect::<Result<Vec<_>, _>>()?;
    if !args.common.quiet {
        for served in answering.served() {
            tracing::info!("{}", served.describe());
        }
    }
    announce(&server, &args.listening, "chat page, and the API under /v1");
    thread::scope(|scope| {
        for (causal, served) in causal.iter().zip(answering.served()) {
            scope.spawn(|| serve(causal, &served.tokenizer, &served.queue));
        }
        let ended = server.serve(router, &machine.interrupt);
        for served in answering.served() {
            served.queue.close();
        }
        Ok(ended?)
    })
}

/// A model, and what requests call it: what was typed; of a path from the root the last part, because it says where files are.
fn load(machine: &Machine, spec: &str) -> anyhow::Result<(String, LanguageModel)> {
    let model = machine.load(&model_folder(spec, "sft")?)?;
    let path = Path::new(spec);
    let name = match path.file_name().filter(|_| path.is_absolute()) {
        _ if spec.is_empty() => "bundled".to_owned(),
        Some(last) => last.to_string_lossy().into_owned(),
        None => spec.to_owned(),
    };
    Ok((name, model))
}

/// Whether the models converse. Refuses two that would be given different prompts, and a format that none heeds.
fn check_templates(args: &ServeArgs, models: &[(String, LanguageModel)]) -> anyhow::Result<bool> {
    let converses = models[0].1.tokenizer.converses();
    if let Some((name, other)) = models.get(1)
        && other.tokenizer.converses() != converses
    {
        return Err(usage!(
            "only one of {} and {name} has a chat template, so they cannot answer the same message side by side: serve them one by one",
            models[0].0
        ));
    }
    if args.format != "{}" && converses {
        return Err(usage!(
            "--format is for models without a chat template, and {} has one",
            models[0].0
        ));
    }
    Ok(converses)
}

/// How much fits beside the model. The pools of keys and values double when they grow and are compacted when half empty, so a token may
/// take eight times its size for a moment. What recurrent layers have come to is kept of every row, and of the prompt it began with.
fn limits(args: &ServeArgs, model: &LanguageModel, models: usize) -> Limits {
    let longest = model.config.max_length();
    let token = (model.config.cache_width() * size_of::<f32>()) as u64;
    let states = (2 * args.batch * model.config.state_width() * size_of::<f32>()) as u64;
    let room = (memory().0 / models as u64).saturating_sub(states) / 8 / token.max(1);
    Limits {
        rows: args.batch,
        tokens: usize::try_from(room)
            .unwrap_or(usize::MAX)
            .clamp(longest, longest.saturating_mul(args.batch)),
        waiting: WAITING,
        longest,
    }
}
