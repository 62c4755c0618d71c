//! The processes of a run together: where each computes, whether they compute alike, how fast they sum.

use anyhow::ensure;
use rlhf_train::{Finding, readable_bytes};

use super::Report;
use crate::machine::Machine;

/// Says nothing of a process by itself.
pub(super) fn check(machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let comm = &machine.comm;
    if comm.size() == 1 {
        return Ok(());
    }
    let device = rlhf_ops::device::describe(&machine.device);
    let devices = comm.all(&device)?;
    let arithmetic = comm.all(&rlhf_ops::device::arithmetic(&machine.device))?;
    let (bytes, sent) = comm.measure_sum();
    let seconds = sent.time.as_secs_f64();
    report.part("ranks");
    for (rank, device) in devices.iter().enumerate() {
        report.push(Finding::new(&comm.name(rank), device, &[]));
    }
    report.push(Finding::of("alike", alike(&arithmetic)));
    let rate = readable_bytes((bytes as f64 / seconds) as u64);
    let found = format!(
        "{} of gradients in {:.1} ms, {rate} a second; for it a rank sends {} bytes in {} messages (docs/parallel.md)",
        readable_bytes(bytes),
        1e3 * seconds,
        sent.bytes,
        sent.messages
    );
    report.push(Finding::new("sum over all", found, &[]));
    Ok(())
}

/// Whether all ranks compute with the same instructions: the last bits of their numbers depend on them.
fn alike(arithmetic: &[String]) -> anyhow::Result<String> {
    let other = arithmetic.iter().position(|it| *it != arithmetic[0]);
    ensure!(
        other.is_none(),
        "rank 0 computes with \"{}\" and rank {} with \"{}\", so their numbers would differ in the last bits: take hosts of one kind, or set \
         RLHF_SIMD=avx2 for all",
        arithmetic[0],
        other.unwrap_or_default(),
        arithmetic[other.unwrap_or_default()]
    );
    Ok(format!("all compute with {}", arithmetic[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_with_other_instructions_is_named() {
        let all = ["cpu, AVX-512", "cpu, AVX-512", "cpu, AVX2"].map(str::to_owned);
        assert_eq!(alike(&all[..2]).unwrap(), "all compute with cpu, AVX-512");
        let said = alike(&all).unwrap_err().to_string();
        assert!(said.contains("rank 2 with \"cpu, AVX2\""), "{said}");
    }
}
