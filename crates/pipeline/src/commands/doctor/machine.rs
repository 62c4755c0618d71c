//! The machine by itself: does it compute right, is there room.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use candle_core::{DType, Device};
use rlhf_lm::{CausalLm, Example, ExampleBatch, Gradients, LanguageModel, Weights};
use rlhf_train::{Finding, Verdict, readable_bytes};

use super::Report;
use crate::bundled;
use crate::disk::{existing, free};
use crate::machine::Machine;
use crate::memory::memory;

/// What the bundled model is asked, so that every kernel of a training step is used.
const TEXTS: [&str; 2] = [
    "Question: which colour is the fox?\nAnswer: the fox is red.",
    "the ant is tiny. the moth eats wool.",
];

pub(super) fn check(machine: &Machine, out: &Path, report: &mut Report) {
    report.part("machine");
    let device = rlhf_ops::device::describe(&machine.device);
    let device = format!("{device}, {}", machine.dtype.as_str());
    report.push(Finding::new("device", device, &[]));
    if let Some(tried) = kernels(machine).transpose() {
        report.push(Finding::of("kernels", tried));
    }
    report.push(Finding::of("arithmetic", arithmetic(machine)));
    let of = |(free, all)| format!("{} of {} free", readable_bytes(free), readable_bytes(all));
    report.push(Finding::new("memory", of(memory()), &[]));
    if let Some(memory) = rlhf_ops::device::memory(&machine.device) {
        report.push(Finding::new("device memory", of(memory), &[]));
    }
    report.push(disk(out, 0));
    report.push(Finding::of("folder", writable(out)));
    report.push(hub());
}

/// Every kernel for GPUs, compiled and tried; nothing on a device that has none.
fn kernels(machine: &Machine) -> anyhow::Result<Option<String>> {
    let tried = rlhf_ops::try_kernels(&machine.device, machine.dtype)?;
    Ok(tried.map(|tried| {
        format!(
            "{} operations by {} launches of our own in {}, within {:.1e} of the reference forms in f64; the others take these",
            tried.operations,
            tried.launches,
            machine.dtype.as_str(),
            tried.difference
        )
    }))
}

/// Longest wait for the hub.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether the hub can be reached: a connection is tried, nothing is sent.
fn hub() -> Finding {
    let hub = crate::models::hub();
    let (endpoint, cache) = (&hub.endpoint, hub.cache.display());
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    if hub.offline {
        let found = format!("offline (HF_HUB_OFFLINE): only models in {cache}");
        return Finding::new("hub", found, &[]);
    }
    if proxy.iter().any(|name| std::env::var_os(name).is_some()) {
        let found =
            format!("{endpoint} through a proxy, which was not tried; models kept in {cache}");
        return Finding::new("hub", found, &[]);
    }
    match reach(endpoint) {
        Ok(()) => Finding::new(
            "hub",
            format!("{endpoint} answers, models kept in {cache}"),
            &[],
        ),
        Err(error) => Finding {
            check: "hub".to_owned(),
            verdict: Verdict::Warn,
            found: format!(
                "{endpoint} cannot be reached ({error:#}): only local models, and those in {cache}"
            ),
        },
    }
}

/// Opens a connection to the host of `url`.
fn reach(url: &str) -> anyhow::Result<()> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "http" { 80 } else { 443 };
    let address = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:{port}"),
    };
    let mut last = anyhow!("{host} has no address");
    for address in address
        .to_socket_addrs()
        .context("its address is not known")?
    {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Loss and gradient of the bundled model, here and by the reference forms on the CPU in f32.
fn arithmetic(machine: &Machine) -> anyhow::Result<String> {
    let here = loss_and_gradient(machine.dtype, &machine.device)?;
    let before = rlhf_ops::reference_only();
    rlhf_ops::set_reference_only(true);
    let reference = loss_and_gradient(DType::F32, &Device::Cpu);
    rlhf_ops::set_reference_only(before);
    let (loss, gradient) = reference?;
    let loss_off = (here.0 - loss).abs();
    let norm = |g: &BTreeMap<String, Vec<f32>>| {
        let squares = g.values().flatten().map(|x| f64::from(*x).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let difference: BTreeMap<String, Vec<f32>> = gradient
        .iter()
        .map(|(name, values)| {
            let here = here.1.get(name).into_iter().flatten();
            (
                name.clone(),
                values.iter().zip(here).map(|(a, b)| a - b).collect(),
            )
        })
        .collect();
    let gradient_off = norm(&difference) / norm(&gradient);
    let bound = if rlhf_ops::computes_in_f32(machine.dtype) {
        1e-4
    } else {
        5e-2
    };
    // Written so that a NaN fails too.
    ensure!(
        loss_off < bound && gradient_off < bound,
        "the bundled model's loss is off by {loss_off:.1e} and its gradient by {gradient_off:.1e} of its length against the reference \
         forms on the CPU; no more than {bound:.0e} is rounding. Do not train here: try --device cpu, or RLHF_REFERENCE=1, and report it"
    );
    Ok(format!(
        "a training step of the bundled model agrees with the reference forms: loss to {loss_off:.0e}, gradient to {gradient_off:.0e}"
    ))
}

/// Loss per token in nats over [`TEXTS`], and the gradient of every parameter.
fn loss_and_gradient(
    dtype: DType,
    device: &Device,
) -> anyhow::Result<(f64, BTreeMap<String, Vec<f32>>)> {
    let model = LanguageModel::load(
        &bundled::path(bundled::MODEL)?,
        Weights::Trainable,
        dtype,
        device,
    )?;
    let causal = CausalLm::new(&model.config, &model.params)?;
    let mut rows = Vec::new();
    for text in TEXTS {
        rows.extend(Example::windows_of_text(&model.tokenizer, text, 256)?.0);
    }
    let targets = rows.iter().map(Example::num_targets).sum();
    let batch = ExampleBatch::pack(&rows.iter().collect::<Vec<_>>(), device)?;
    let _recording = rlhf_ops::Recording::start();
    let loss = batch.loss(&causal, targets)?;
    let mut gradients = Gradients::new();
    gradients.accumulate(&model.params, &loss)?;
    let loss = Gradients::read(&loss.detach(), &[&gradients])?[0];
    let gradients = gradients
        .iter()
        .map(|(name, gradient)| Ok((name.to_owned(), rlhf_ops::read_to_host(gradient)?)))
        .collect::<anyhow::Result<_>>()?;
    Ok((f64::from(loss), gradients))
}

/// Whether the disk that `out` will be on has room for `needed` bytes.
pub(super) fn disk(out: &Path, needed: u64) -> Finding {
    const CHECK: &str = "disk";
    let Some(free) = free(out) else {
        return Finding {
            check: CHECK.to_owned(),
            verdict: Verdict::Warn,
            found: format!("how much room {} has is not known", out.display()),
        };
    };
    let out = out.display();
    Finding::of(
        CHECK,
        match (needed, free > needed) {
            (0, true) => Ok(format!("{} free for {out}", readable_bytes(free))),
            (_, true) => Ok(format!(
                "checkpoints and models take about {}, {} free for {out}",
                readable_bytes(needed),
                readable_bytes(free)
            )),
            (_, false) => Err(anyhow!(
                "{out} needs {} for checkpoints and models, and {} are free: free some space, lower --keep-checkpoints, or choose another --out",
                readable_bytes(needed),
                readable_bytes(free)
            )),
        },
    )
}

/// Whether something can be written where `out` will be.
fn writable(out: &Path) -> anyhow::Result<String> {
    let place = existing(out)?;
    ensure!(
        place.is_dir(),
        "{} is a file, and runs need a folder there: choose another --out",
        place.display()
    );
    let probe = place.join(format!(".rlhf-doctor-{}", std::process::id()));
    fs_err::write(&probe, "written by rlhf doctor")
        .and_then(|()| fs_err::remove_file(&probe))
        .with_context(|| {
            format!(
                "{} cannot be written to: choose another --out",
                place.display()
            )
        })?;
    Ok(format!("{} can be written to", place.display()))
}
