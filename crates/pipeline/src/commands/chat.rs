//! `rlhf chat`: talk to a model or to two, and keep which answer was better.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rlhf_base::rng::{stream, uniform};
use rlhf_base::tell;
use rlhf_base::{Message, Text};
use rlhf_label::{Candidates, Journal, Judgement, Key, Kind, Shown, Verdict};
use rlhf_lm::{CausalLm, LanguageModel, Sampled, TextStream, stream_response};
use rlhf_rollout::{Episode, PromptRow, Scorer};
use serde_json::json;

use crate::exit::{self, usage};
use crate::flags::ChatArgs;
use crate::input::{Input, Typed, user};
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;
use crate::output::{colours, print, print_json};

const HELP: &str = "/new           forget the conversation
/again         answer the last line once more
/system TEXT   begin a conversation with these instructions
/temperature T sample at another temperature; 0 takes the most likely token
/quit          end, as Ctrl-D does
Ctrl-C cuts an answer short, and at the prompt forgets what is half typed.
";

pub(crate) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    args.sampling.config(0).check()?;
    if !args.format.contains("{}") {
        return Err(usage!(
            "--format \"{}\" has no {{}}: it says where the typed line goes",
            args.format
        ));
    }
    let machine = Machine::new(&args.common.run(), args.common.quiet)?;
    let load = |name: &str| -> anyhow::Result<Speaker> {
        let folder = model_folder(name, "sft")?;
        let model = machine.load(&folder)?;
        Ok(Speaker {
            name: if name.is_empty() { "bundled" } else { name }.to_owned(),
            causal: CausalLm::new(&model.config, &model.params.frozen())?,
            model,
            turns: Vec::new(),
        })
    };
    let mut speakers = vec![load(&args.answering.model)?];
    if let Some(against) = &args.against {
        speakers.push(load(against)?);
    }
    check_templates(args, &speakers)?;
    let reward = match &args.reward {
        Some(spec) => {
            let timeout = rlhf_ppo::Config::default().timeout();
            Some(reward_source(spec)?.open(
                &machine.bases,
                machine.dtype,
                &machine.device,
                timeout,
            )?)
        }
        None => None,
    };
    let file = args.save.as_deref().map(Journal::open).transpose()?;
    for mended in file.iter().flat_map(|file| &file.mended) {
        tell(mended);
    }
    // First, because the line editor takes Ctrl-C for itself when it starts; at its prompt it reads it as a key.
    let input = Input::new()?;
    let hush = Arc::new(AtomicBool::new(input.ends_by_interrupt()));
    let handler = hush.clone();
    ctrlc::set_handler(move || {
        if handler.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
    })
    .context("cannot catch Ctrl-C")?;
    let mut chat = Chat {
        args,
        speakers,
        reward,
        hush,
        system: args.system.clone(),
        temperature: args.sampling.temperature,
        answers: 0,
        input,
        file,
        for_reading: std::io::stdout().is_terminal() && !args.json,
    };
    if chat.for_reading && !args.common.quiet {
        tell("/help lists what can be typed besides words");
    }
    chat.talk()
}

/// Refuses flags that none of the models could heed, and a choice between answers to different prompts.
fn check_templates(args: &ChatArgs, speakers: &[Speaker]) -> anyhow::Result<()> {
    let templates: Vec<bool> = speakers.iter().map(Speaker::converses).collect();
    if args.system.is_some() && !templates.contains(&true) {
        return Err(usage!(
            "--system opens a conversation, and {} has no chat template; put the words into --format",
            speakers[0].name
        ));
    }
    if args.format != "{}" && !templates.contains(&false) {
        return Err(usage!(
            "--format is for models without a chat template, and {} has one",
            speakers[0].name
        ));
    }
    if args.save.is_some() && templates.contains(&true) && templates.contains(&false) {
        return Err(usage!(
            "--save needs two answers to the same prompt, but only one of {} and {} has a chat template",
            speakers[0].name,
            speakers[1].name
        ));
    }
    Ok(())
}

/// A model in a conversation.
struct Speaker {
    name: String,
    model: LanguageModel,
    causal: CausalLm,
    /// What was said so far, without instructions; always empty for a model without a chat template.
    turns: Vec<Message>,
}

impl Speaker {
    fn converses(&self) -> bool {
        self.model.tokenizer.converses()
    }

    /// What the model is given for `line`. Where the conversation leaves no room for `answer` tokens its beginning is forgotten; a
    /// single line too long is an error.
    fn prompt(
        &mut self,
        line: &str,
        system: Option<&str>,
        format: &str,
        answer: usize,
    ) -> anyhow::Result<PromptRow> {
        let longest = self.model.config.max_length();
        loop {
            let text = if self.converses() {
                let system = system.map(|text| Message::new("system", text));
                let turns = system.into_iter().chain(self.turns.iter().cloned());
                Text::from(
                    turns
                        .chain([Message::new("user", line)])
                        .collect::<Vec<_>>(),
                )
            } else {
                Text::Plain(format.replace("{}", line).replace("\\n", "\n"))
            };
            let ids = self.model.tokenizer.encode_prompt(&text)?;
            if ids.len() + answer <= longest || self.turns.is_empty() && ids.len() < longest {
                return Ok(PromptRow::new(text, ids));
            }
            if self.turns.is_empty() {
                return Err(usage!(
                    "these are {} tokens, and {} reads at most {longest} with its answer",
                    ids.len(),
                    self.name
                ));
            }
            self.turns.drain(..2);
        }
    }

    fn remember(&mut self, line: &str, answer: &str) {
        if self.converses() {
            self.turns.push(Message::new("user", line));
            self.turns.push(Message::new("assistant", answer));
        }
    }

    /// Takes back the last exchange.
    fn unsay(&mut self) {
        self.turns.truncate(self.turns.len().saturating_sub(2));
    }
}

/// One answer.
struct Answer {
    speaker: usize,
    prompt: PromptRow,
    sampled: Sampled,
    text: String,
}

struct Chat<'a> {
    args: &'a ChatArgs,
    speakers: Vec<Speaker>,
    reward: Option<Box<dyn Scorer>>,
    /// Ctrl-C sets it, and the answer in the making ends. Where it is set already, Ctrl-C ends the chat.
    hush: Arc<AtomicBool>,
    system: Option<String>,
    temperature: f64,
    /// Answers given: the n-th is sampled with seed + n.
    answers: u64,
    input: Input,
    /// Where verdicts go.
    file: Option<Journal>,
    for_reading: bool,
}

impl Chat<'_> {
    fn talk(&mut self) -> anyhow::Result<()> {
        let mut last = None;
        loop {
            let line = match self.input.ask("> ", "")? {
                Typed::Line(line) => line,
                Typed::Interrupt => {
                    tell("/quit or Ctrl-D ends");
                    continue;
                }
                Typed::End => break,
            };
            let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match command {
                "" => {}
                "/quit" => break,
                "/help" => tell(HELP.trim_end()),
                "/new" => self.speakers.iter_mut().for_each(|s| s.turns.clear()),
                "/system" if !rest.is_empty() && self.speakers.iter().any(Speaker::converses) => {
                    self.system = Some(rest.to_owned());
                    self.speakers.iter_mut().for_each(|s| s.turns.clear());
                }
                "/system" => tell("/system TEXT, for models with a chat template"),
                "/temperature" => match rest.trim().parse::<f64>() {
                    Ok(t) if t.is_finite() && t >= 0.0 => self.temperature = t,
                    _ => tell("/temperature T, a number of at least 0"),
                },
                "/again" => match last.take() {
                    Some(line) => {
                        self.speakers.iter_mut().for_each(Speaker::unsay);
                        last = self.exchange(line)?;
                    }
                    None => tell("nothing was asked yet"),
                },
                _ if command.starts_with('/') => {
                    tell(format!("{command} is none of these:\n{HELP}"));
                }
                _ => last = self.exchange(line)?.or(last),
            }
        }
        Ok(())
    }

    /// `line`, what is answered to it, and with `--save` the verdict. Gives the line back unless nobody could read it.
    fn exchange(&mut self, line: String) -> anyhow::Result<Option<String>> {
        let choosing = self.args.save.is_some();
        let mut order: Vec<usize> = match (choosing, self.speakers.len()) {
            (true, 1) => vec![0, 0],
            (_, n) => (0..n).collect(),
        };
        if choosing && uniform(&mut stream(self.args.common.seed, "blind", self.answers)) < 0.5 {
            order.reverse();
        }
        let mut answers = Vec::new();
        for (place, &speaker) in order.iter().enumerate() {
            let label = match (choosing, order.len()) {
                (true, _) => (place + 1).to_string(),
                (false, 1) => String::new(),
                (false, _) => self.speakers[speaker].name.clone(),
            };
            match self.answer(speaker, &line, &label) {
                Ok(answer) => answers.push(answer),
                Err(error) if error.is::<exit::Usage>() => {
                    tell(error);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let better = self.verdict(&answers)?;
        self.tell(&answers)?;
        // After a choice the conversation goes on from one answer, so that the next two have the same prompt.
        let one = choosing.then(|| answers[better.unwrap_or(0)].text.clone());
        for (i, speaker) in self.speakers.iter_mut().enumerate() {
            let own = answers.iter().find(|answer| answer.speaker == i);
            if let Some(text) = one.as_ref().or(own.map(|answer| &answer.text)) {
                speaker.remember(&line, text);
            }
        }
        Ok(Some(line))
    }

    /// One answer, shown while it is made.
    fn answer(&mut self, speaker: usize, line: &str, label: &str) -> anyhow::Result<Answer> {
        let sampling = rlhf_lm::SamplingConfig {
            temperature: self.temperature,
            ..self
                .args
                .sampling
                .config(self.args.common.seed.wrapping_add(self.answers))
        };
        self.answers += 1;
        let who = &mut self.speakers[speaker];
        let prompt = who.prompt(
            line,
            self.system.as_deref(),
            &self.args.format,
            sampling.max_new_tokens,
        )?;
        let show = |text: &str| match self.for_reading {
            true => print(text),
            false => Ok(()),
        };
        if !label.is_empty() {
            show(&match colours() {
                true => format!("\x1b[1m{label}\x1b[0m  "),
                false => format!("{label}  "),
            })?;
        }
        self.hush.store(false, Ordering::SeqCst);
        let tokenizer = &who.model.tokenizer;
        let mut spoken = TextStream::new(tokenizer, &prompt.ids);
        let mut shown = Ok(());
        let hear = &mut |token| {
            shown = show(&spoken.push(token)?);
            Ok(shown.is_ok() && !self.hush.load(Ordering::SeqCst))
        };
        let sampled = stream_response(&who.causal, tokenizer, &prompt.ids, &sampling, hear);
        if self.input.ends_by_interrupt() {
            self.hush.store(true, Ordering::SeqCst);
        }
        let sampled = sampled?;
        shown?;
        let cut = if sampled.finished { "" } else { " […]" };
        show(&format!("{}{cut}\n", spoken.waiting()?))?;
        Ok(Answer {
            speaker,
            text: tokenizer.decode_response(&prompt.ids, &sampled.tokens)?,
            prompt,
            sampled,
        })
    }

    /// Asks which of two answers is better and keeps what is said. Which one it was; `None` without a preference.
    fn verdict(&mut self, answers: &[Answer]) -> anyhow::Result<Option<usize>> {
        let ([first, second], Some(file)) = (answers, &mut self.file) else {
            return Ok(None);
        };
        if first.text == second.text {
            tell("the two answers are the same: there is nothing to choose");
            return Ok(None);
        }
        let verdict = loop {
            let question = "better: f (1) or j (2), t tie, b both bad, or Enter for no verdict? ";
            match self.input.ask(question, "")? {
                Typed::Line(line) if line.trim().is_empty() => return Ok(None),
                Typed::Line(line) => match Key::parse(Kind::Pair, 2, &line) {
                    Ok(Key::Verdict(verdict)) => break verdict,
                    Ok(Key::Help) => tell(question),
                    _ => {}
                },
                Typed::Interrupt | Typed::End => return Ok(None),
            }
        };
        let answer = |answer: &Answer| rlhf_label::Answer {
            text: Text::Plain(answer.text.clone()),
            model: Some(self.speakers[answer.speaker].name.clone()),
            finished: answer.sampled.finished,
        };
        let source = Some("chat".to_owned());
        let both = vec![answer(first), answer(second)];
        let item =
            Candidates::new(first.prompt.text.clone(), both, source).item(Kind::Pair, &[0, 1]);
        let better = match &verdict {
            Verdict::Better { side, .. } => Some(*side),
            _ => None,
        };
        file.append(&Judgement {
            shown: Shown {
                id: item.id.clone(),
                item,
                sides: vec![0, 1],
                repeat: false,
                strategy: "chat".to_owned(),
            },
            verdict,
            rewritten: None,
            annotator: user(),
            seconds: None,
            shown_at: None,
        })?;
        Ok(better)
    }

    /// What is known of the answers once they are given: scores, and after a choice whose they were.
    fn tell(&self, answers: &[Answer]) -> anyhow::Result<()> {
        for (place, answer) in answers.iter().enumerate() {
            let speaker = &self.speakers[answer.speaker];
            let score = match &self.reward {
                Some(reward) => {
                    let episode = Episode {
                        prompt: 0,
                        response: answer.sampled.tokens.clone(),
                        finished: answer.sampled.finished,
                    };
                    let prompts = std::slice::from_ref(&answer.prompt);
                    let scores = reward.scores(&speaker.model.tokenizer, prompts, &[episode])?;
                    scores.first().copied()
                }
                None => None,
            };
            if !self.for_reading {
                let mut line = json!({
                    "prompt": answer.prompt.text,
                    "model": speaker.name,
                    "response": answer.text,
                    "finished": answer.sampled.finished,
                    "tokens": answer.sampled.tokens.len(),
                });
                if let Some(score) = score {
                    line["score"] = json!(score);
                }
                print_json(&line)?;
                continue;
            }
            let mut known = Vec::new();
            if answers.len() > 1 && self.args.save.is_some() && self.speakers.len() > 1 {
                known.push(format!("{} was {}", place + 1, speaker.name));
            } else if answers.len() > 1 && score.is_some() {
                known.push(format!("{}, {}", place + 1, speaker.name));
            }
            known.extend(score.map(|score| format!("score {score:.3}")));
            if !known.is_empty() {
                tell(format!("   {}", known.join(": ")));
            }
        }
        Ok(())
    }
}
