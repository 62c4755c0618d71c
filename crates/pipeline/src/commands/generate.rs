//! `rlhf generate`.

use std::io::IsTerminal as _;
use std::time::Instant;

use anyhow::Context as _;
use rlhf_base::Text;
use rlhf_dataset::Prompt;
use rlhf_lm::{CausalLm, SamplingConfig, TextNotes, generate};
use rlhf_train::{Progress, ProgressStyle, read_and_tell, tell_skipped};
use serde_json::json;

use crate::data_files::found;
use crate::flags::GenerateArgs;
use crate::locate::model_folder;
use crate::machine::Machine;
use crate::output::{print, print_json};

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let prompts = prompts(args)?;
    let folder = model_folder(&args.answering.model, "sft")?;
    let machine = Machine::new(&args.common.run(), args.common.quiet)?;
    let mut model = machine.load(&folder)?;
    model.tokenizer = (model.tokenizer)
        .allow_special(args.allow_special)
        .take_raw(args.raw);
    let weights = model
        .params
        .rounded(&model.config, args.weights.format(), None)
        .context("--weights")?;
    let causal = CausalLm::new(&model.config, &weights)?;

    let mut notes = TextNotes::default();
    for prompt in &prompts {
        match prompt {
            // Asking through the template is what everyone expects here.
            Text::Plain(text) => notes.text(&model.tokenizer, text),
            Text::Chat(_) => notes.row(&model.tokenizer, prompt, &[]),
        }
    }
    for note in notes.told(&model.tokenizer) {
        tracing::warn!("{note}");
    }
    let ids = prompts
        .iter()
        .map(|prompt| model.tokenizer.encode_prompt(prompt))
        .collect::<Result<Vec<_>, _>>()?;
    let sampling = SamplingConfig {
        max_rows: args.batch,
        lookup: args.lookup as usize,
        ..args.sampling.config(args.common.seed)
    };
    let total = (prompts.len() * args.samples) as u64;
    // A handful of responses is there before a bar would be.
    let style = if total > 8 {
        machine.progress
    } else {
        ProgressStyle::Quiet
    };
    let mut progress = Progress::new(style, "generate", total, "response");
    let begun = Instant::now();
    let sampled = generate(
        &causal,
        &model.tokenizer,
        &ids,
        args.samples,
        &sampling,
        &mut |done| {
            progress.tick(done as u64, &[], 0);
        },
    )?;
    progress.finish();
    let seconds = begun.elapsed().as_secs_f64();
    let tokens: usize = sampled.iter().map(|response| response.tokens.len()).sum();
    let guessed: usize = sampled.iter().map(|s| s.guessed.tokens).sum();
    let hits: usize = sampled.iter().map(|s| s.guessed.hits).sum();
    let guesses = match args.lookup {
        0 => String::new(),
        _ => format!(", {hits} of {guessed} guesses right"),
    };
    machine.progress.say(&format!(
        "{tokens} tokens in {seconds:.2} s, {:.1} tokens/s{guesses}",
        tokens as f64 / seconds
    ));

    let for_reading = std::io::stdout().is_terminal() && !args.json;
    for response in sampled {
        let prompt = &prompts[response.prompt];
        let text = model
            .tokenizer
            .decode_response(&ids[response.prompt], &response.tokens)?;
        if for_reading {
            let cut = if response.finished { "" } else { " […]" };
            // A string that was put into the chat template is a question, and the text an answer to it.
            let between = match prompt {
                Text::Plain(_) if !model.tokenizer.converses() => "",
                _ => "\n",
            };
            print(&format!("{prompt}{between}{text}{cut}\n\n"))?;
        } else {
            print_json(&json!({
                "prompt": prompt,
                "response": text,
                "finished": response.finished,
                "tokens": response.tokens.len(),
            }))?;
        }
    }
    Ok(())
}

fn prompts(args: &GenerateArgs) -> anyhow::Result<Vec<Text>> {
    if args.prompts.is_empty() {
        return Ok(args
            .prompt
            .iter()
            .map(|text| Text::Plain(text.replace("\\n", "\n")))
            .collect());
    }
    let loaded = read_and_tell::<Prompt>(&found(&args.prompts)?, &args.reading.reading())?;
    tell_skipped(&loaded.tolerance);
    let rows = loaded.rows.into_iter();
    Ok(rows.map(|row| row.record.prompt).collect())
}
