//! `rlhf label`: people judge, or programs in their place.

mod page;
mod summary;
pub(crate) mod terminal;

use anyhow::Context as _;
use rlhf_label::{Choose, Clock, Session, Settings, Simulated};

use self::page::Page;
use self::terminal::Asking;
use crate::bundled;
use crate::choosing::Choosing;
use crate::exit::usage;
use crate::flags::LabelArgs;
use crate::labelling::{Asked, Opinion, annotators, existing, let_judge, tell_mended};
use crate::machine::Machine;
use crate::near::instead;
use crate::output::print_result;

pub(crate) fn run(args: &LabelArgs) -> anyhow::Result<()> {
    let shares = [
        ("repeat", args.repeat),
        ("overlap", args.overlap),
        ("random", args.random),
    ];
    for (flag, share) in shares {
        if !(0.0..=1.0).contains(&share) {
            return Err(usage!("--{flag} {share}: a share is from 0 to 1"));
        }
    }
    if args.choose == Choose::Random && args.choose_by.is_some() {
        return Err(usage!(
            "--choose-by names a model to choose by, and --choose is random: add --choose thompson, or leave it out"
        ));
    }
    if args.items == Some(0) {
        return Err(usage!("--items 0: there would be nothing to judge"));
    }
    let guidelines = match &args.guidelines {
        Some(file) => {
            let text = fs_err::read_to_string(file);
            Some(text.map_err(|error| usage!("--guidelines: {error}{}", instead(file)))?)
        }
        None => None,
    };
    let machine = Machine::new(&args.common.run(), args.common.quiet)?;
    let (programs, people) = annotators(&args.annotator, &machine, args.common.seed)?;
    match (programs.as_slice(), people.as_slice()) {
        ([], [_, another, ..]) => {
            return Err(usage!(
                "--annotator {another}: in a terminal one person judges at a time, and on a page everybody gives a name there"
            ));
        }
        ([_, ..], [person, ..]) => {
            return Err(usage!(
                "--annotator {person}: either programs judge or people"
            ));
        }
        ([_, ..], _) if args.terminal => {
            return Err(usage!(
                "--terminal is for people, and --annotator names a program"
            ));
        }
        _ => {}
    }
    let person = people.into_iter().next();
    let session = match programs.as_slice() {
        [] if args.terminal => {
            let mut session = open(args, &programs, &machine)?;
            let asking = Asking {
                person,
                guidelines,
                opinion: Opinion::open(args.reward.as_deref(), &machine)?,
                json: args.json,
                quiet: args.common.quiet,
            };
            terminal::judge(&mut session, asking)?;
            session
        }
        [] => {
            let page = Page::open(args, person, guidelines, &machine)?;
            page.judge(args, open(args, &programs, &machine)?, &machine)?
        }
        programs => {
            let mut session = open(args, programs, &machine)?;
            machine.catch_interrupts_quietly()?;
            let_judge(&mut session, programs, &machine)?;
            session
        }
    };
    let summary = session.summary();
    print_result(args.json, &summary, || summary::text(&session, &summary))
}

/// The session that the flags describe.
fn open(args: &LabelArgs, programs: &[Simulated], machine: &Machine) -> anyhow::Result<Session> {
    let seed = args.common.seed;
    let pool = match args.data.as_slice() {
        [] => {
            let model = args.model.clone().unwrap_or_default();
            if args.prompts.is_empty() && !["", bundled::NAME].contains(&model.as_str()) {
                return Err(usage!(
                    "--model {model} needs --prompts FILE: what it is to be asked"
                ));
            }
            let models: Vec<String> = [model].into_iter().chain(args.against.clone()).collect();
            let usual = args
                .kind
                .usual_answers(models.len(), args.choose != Choose::Random);
            let asked = Asked {
                models,
                prompts: &args.prompts,
                kept_back: None,
                reading: args.reading.reading(),
                answers: args.answers.unwrap_or(usual),
                raw: args.raw,
                config: args.sampling.config(seed),
                kind: args.kind,
            };
            asked
                .pool(&args.save, machine)
                .with_context(|| format!("--save {}", args.save.display()))?
        }
        files => existing(files, &args.reading.reading(), args.kind, seed)?,
    };
    let settings = Settings {
        kind: args.kind,
        seed,
        repeat: args.repeat,
        overlap: args.overlap,
        items: args.items,
        clock: match programs {
            [] => Clock::System,
            _ => Clock::Absent,
        },
    };
    // A rule as reward has no hidden states. With no --data the answers come from a model, by default the bundled one.
    let reward = || args.reward.clone().filter(|it| !it.contains(':'));
    let model = || {
        args.data
            .is_empty()
            .then(|| args.model.clone().unwrap_or_default())
    };
    let by = args.choose_by.clone().or_else(reward).or_else(model);
    if by.is_none() && args.choose != Choose::Random {
        return Err(usage!(
            "--choose {} learns on the hidden states of a model: name a reward model or a language model with --choose-by MODEL",
            args.choose
        ));
    }
    let choosing = Choosing {
        choose: args.choose,
        by: by.unwrap_or_default(),
        random: args.random,
        waits: !programs.is_empty(),
    };
    let strategy = choosing.strategy(std::slice::from_ref(&args.save), seed, machine)?;
    let session = Session::open(&args.save, pool, strategy, settings);
    let session = session.with_context(|| format!("--save {}", args.save.display()))?;
    tell_mended(&session);
    Ok(session)
}
