//! The other processes of a run: whether a launcher has started several, and whether they do the same.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use rlhf_base::{tell, tell_anyway};
use rlhf_train::Comm;
use sysinfo::System;

use crate::cli::{Command, Typed};
use crate::exit::{INTERRUPTED, code, exit_code, usage};

/// The variables in which launchers say how many processes they have started and which of them this one is: Open MPI's, those of Hydra (MPICH
/// and Intel MPI), MVAPICH's, Slurm's and torchrun's.
const LAUNCHERS: [(&str, &str); 5] = [
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    (TORCHRUN, "RANK"),
];

const TORCHRUN: &str = "WORLD_SIZE";

/// What a launcher says of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launched {
    size: usize,
    pub(crate) rank: usize,
    by_torchrun: bool,
}

/// What the launcher of this process says, if it has started several.
pub(crate) fn launched() -> Option<Launched> {
    launched_by(|name| std::env::var(name).ok())
}

fn launched_by(variable: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |name| variable(name)?.parse().ok();
    let said = LAUNCHERS.iter().find_map(|(size, rank)| {
        Some(Launched {
            size: number(size)?,
            rank: number(rank)?,
            by_torchrun: *size == TORCHRUN,
        })
    });
    said.filter(|it| it.size > 1)
}

/// Connects to the other processes, where there are any and the command is one that they can share.
pub(crate) fn join(typed: &Typed, launched: Option<Launched>) -> anyhow::Result<Comm> {
    let Some(launched) = launched else {
        return Ok(Comm::single());
    };
    let shared = matches!(
        typed,
        Typed::Stage(..) | Typed::Command(Command::Run(_) | Command::Doctor(_))
    );
    if !shared {
        return Err(usage!(
            "{} processes were started of a command that is the work of one: start it without mpirun (srun, torchrun). Several can share \
             the stages, `rlhf run` and `rlhf doctor`",
            launched.size
        ));
    }
    let ranks = rlhf_ops::ranks::connect()
        .map_err(|error| usage!("{} processes were started: {error}", launched.size))?;
    if ranks.size() != launched.size {
        return Err(usage!("{}", apart(launched, ranks.size())));
    }
    let host = System::host_name().unwrap_or_default();
    Ok(Comm::over(ranks, &host)?)
}

/// What is wrong where MPI knows of fewer processes than the launcher has started, and what to do.
fn apart(launched: Launched, known: usize) -> String {
    let n = launched.size;
    if launched.by_torchrun {
        return format!(
            "torchrun has started {n} processes, which find each other through PyTorch; here MPI brings them together, also where GPUs sum \
             through NCCL. Start the same command with `mpirun -n {n} rlhf …`, for several hosts with their names and processes \
             (`mpirun -n {n} -H HOST:COUNT,HOST:COUNT rlhf …`), or under Slurm with `srun --mpi=pmix -n {n} rlhf …`"
        );
    }
    format!(
        "{n} processes were started, and MPI knows of {known}: they would do the same work side by side. Start them with the mpirun of the MPI \
         that this binary was built with, or under Slurm with srun --mpi=pmix (srun --mpi=list names what there is)"
    )
}

/// The threads that a rank should use where no number is given: its share of the cores of the host. `None` for a process by itself.
pub(crate) fn threads(comm: &Comm) -> Option<usize> {
    let (_, here) = comm.on_this_host();
    if comm.size() == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return None;
    }
    let may = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (cores() / here).max(1);
    if may < share {
        tell(format!(
            "{}: bound to {may} of the {share} cores that are its share; start with mpirun --bind-to none to use them",
            comm.name(comm.rank())
        ));
    }
    Some(may.min(share))
}

/// Cores of this host, those that this process is not bound to included.
fn cores() -> usize {
    let mut system = System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    system.cpus().len().max(1)
}

/// What a rank is about to do, by name: whatever would make its numbers differ from those of the others.
pub(crate) type Doing = BTreeMap<String, String>;

/// Errors on every rank if one is about to do something else than the leader, by name.
pub(crate) fn agree(comm: &Comm, doing: &Doing) -> anyhow::Result<()> {
    if comm.size() == 1 {
        return Ok(());
    }
    let mut doing = doing.clone();
    doing.insert("the program".to_owned(), program());
    let all = comm.all(&doing)?;
    for (rank, other) in all.iter().enumerate() {
        let differences = differences(&all[0], other);
        if !differences.is_empty() {
            return Err(usage!(
                "{} is about to do something else than {}: {}. Start every rank with the same binary, settings and files",
                comm.name(rank),
                comm.name(0),
                differences.join("; ")
            ));
        }
    }
    Ok(())
}

/// In words, the first few.
fn differences(leader: &Doing, other: &Doing) -> Vec<String> {
    const SHOWN: usize = 3;
    let names = leader
        .keys()
        .chain(other.keys().filter(|name| !leader.contains_key(*name)));
    let differ = names.filter(|name| leader.get(*name) != other.get(*name));
    let said = |doing: &Doing, name: &String| doing.get(name).map_or("missing", |it| it).to_owned();
    let all: Vec<String> = differ
        .map(|name| {
            format!(
                "{name} is {} instead of {}",
                said(other, name),
                said(leader, name)
            )
        })
        .collect();
    let more = all.len().saturating_sub(SHOWN);
    let mut shown: Vec<String> = all.into_iter().take(SHOWN).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// Version and checksum of this program.
fn program() -> String {
    let sum = std::env::current_exe().and_then(|path| rlhf_train::sha256_of_file(&path));
    let sum = sum.unwrap_or_default();
    format!(
        "{} {}",
        env!("CARGO_PKG_VERSION"),
        &sum[..sum.len().min(12)]
    )
}

/// How long a rank leaves it to the leader to say what all have found, before it speaks of its own error.
const COURTESY: Duration = Duration::from_secs(1);

/// [`code`] for one of several ranks: an error on one of them ends them all, with its name and its cause.
pub(crate) fn end(result: anyhow::Result<()>, comm: &Comm) -> ExitCode {
    let Err(error) = &result else {
        comm.finish();
        return code(result);
    };
    let exit = exit_code(error);
    if comm.size() == 1 {
        return code(result);
    }
    // Every rank stops after the same step. Once one rank has ended with a code other than 0 the launcher kills the others, so the leader prints
    // before they wait for each other.
    if exit == INTERRUPTED {
        let code = code(result);
        comm.finish();
        return code;
    }
    if comm.leads() {
        let _ = code(result);
    } else {
        std::thread::sleep(COURTESY + Duration::from_millis(50) * comm.rank().min(100) as u32);
        tell_anyway(format!("{}: error: {error:#}", comm.name(comm.rank())));
    }
    comm.abort(exit);
    ExitCode::from(exit)
}

/// From now on a panic on this rank ends them all: the others would wait for it.
pub(crate) fn end_all_on_panic(comm: &Comm) {
    if comm.size() == 1 {
        return;
    }
    let comm = comm.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        tell_anyway(comm.name(comm.rank()));
        comm.abort(crate::exit::FAILED);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_launcher_is_understood_and_one_process_is_none() {
        let of = |all: &[(&str, &str)]| {
            let all: BTreeMap<String, String> = all
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            launched_by(|name| all.get(name).cloned())
        };
        let third = |by_torchrun| {
            Some(Launched {
                size: 4,
                rank: 3,
                by_torchrun,
            })
        };
        for (size, rank) in LAUNCHERS {
            let found = of(&[(size, "4"), (rank, "3")]);
            assert_eq!(found, third(size == "WORLD_SIZE"));
            let said = apart(found.unwrap(), 1);
            assert_eq!(said.contains("`mpirun -n 4 rlhf …`"), size == "WORLD_SIZE");
            assert_eq!(of(&[(size, "1"), (rank, "0")]), None);
            assert_eq!(
                of(&[(size, "4")]),
                None,
                "{size} alone says nothing of this process"
            );
        }
        // mpirun within an allocation of Slurm: the inner launcher counts.
        let both = [
            ("SLURM_STEP_NUM_TASKS", "1"),
            ("SLURM_PROCID", "0"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_RANK", "3"),
        ];
        assert_eq!(of(&both), third(false));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_differs_is_called_by_its_name() {
        let doing = |all: &[(&str, &str)]| -> Doing {
            all.iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        };
        let leader = doing(&[("sft.lr", "0.1"), ("a.jsonl", "12"), ("b.jsonl", "7")]);
        assert!(differences(&leader, &leader).is_empty());
        let other = doing(&[("sft.lr", "0.2"), ("b.jsonl", "7"), ("c.jsonl", "9")]);
        assert_eq!(
            differences(&leader, &other),
            [
                "a.jsonl is missing instead of 12",
                "sft.lr is 0.2 instead of 0.1",
                "c.jsonl is 9 instead of missing"
            ]
        );
        let many: Vec<(String, String)> = (0..9).map(|i| (format!("{i}"), "1".into())).collect();
        let many = differences(&Doing::new(), &many.into_iter().collect());
        assert_eq!((many.len(), many[3].as_str()), (4, "and 6 more"));
    }
}
