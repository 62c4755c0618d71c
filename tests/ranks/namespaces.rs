//! Three hosts, as network namespaces of this one, with a bridge between them; one vanishes from the network in the middle of a run.
//!
//! Making them takes root and iproute2. Where either is missing the test is left out, and says so.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::folder::{Folder, stderr};
use crate::mpirun::{Running, files_of_mpi};

/// How `mpirun` is told to notice within seconds that a host is gone; docs/parallel.md has the same.
const KEEPALIVE: &str = "--mca oob_tcp_keepalive_time 3 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 3";

/// Three namespaces and a fourth that holds the bridge; they are gone when the value is.
struct Hosts(String);

impl Hosts {
    fn new() -> Result<Self, String> {
        let hosts = Self(format!("rlhf-{}-", std::process::id()));
        let hub = hosts.name(0);
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add name hub0 type bridge"))?;
        ip(&format!("-n {hub} link set hub0 up"))?;
        for i in 1..=3 {
            let host = hosts.name(i);
            ip(&format!("netns add {host}"))?;
            ip(&format!(
                "-n {hub} link add name v{i} type veth peer name eth0 netns {host}"
            ))?;
            ip(&format!("-n {hub} link set v{i} master hub0 up"))?;
            ip(&format!("-n {host} addr add 10.77.0.{i}/24 dev eth0"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
            ip(&format!("-n {host} link set lo up"))?;
        }
        Ok(hosts)
    }

    fn name(&self, i: usize) -> String {
        format!("{}{i}", self.0)
    }

    /// From now on nobody hears of host `i`.
    fn unplug(&self, i: usize) {
        ip(&format!("-n {} link set v{i} down", self.name(0))).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for i in 0..=3 {
            let _ = ip(&format!("netns del {}", self.name(i)));
        }
    }
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {line}: {}", stderr(&output).trim())),
    }
}

/// What `mpirun` uses in the place of `ssh`: the last number of an address is that of its namespace. Each host has a folder of its own for the
/// files of Open MPI, as it would if it were a machine of its own.
fn remote_shell(folder: &Folder, hosts: &Hosts) -> String {
    let text = format!(
        "#!/bin/sh\nhost=${{1##*.}}; shift\nexport TMPDIR=$TMPDIR-$host; mkdir -p $TMPDIR\nexec ip netns exec {}$host sh -c \"$*\"\n",
        hosts.0
    );
    folder.write("remote-shell", &text);
    let path = folder.path("remote-shell");
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_host_that_vanishes_ends_all_within_seconds_and_the_run_goes_on_without_it() {
    let hosts = match Hosts::new() {
        Ok(hosts) => hosts,
        Err(why) => {
            #[allow(clippy::print_stderr)] // for whoever reads what the tests say
            {
                eprintln!("LEFT OUT: no network namespaces here ({why})");
            }
            return;
        }
    };
    let folder = Folder::pipeline();
    let rlhf = folder.command("");
    let rlhf = rlhf.get_program().to_str().unwrap();
    let shell = remote_shell(&folder, &hosts);
    let network = "--mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 --mca btl self,tcp";
    let mpirun = |hosts_of_run: &str, line: &str| {
        let line = format!(
            "netns exec {} mpirun --allow-run-as-root --bind-to none --mca plm_rsh_agent {shell} {network} {KEEPALIVE} -H {hosts_of_run} {rlhf} {line}",
            hosts.name(1)
        );
        let mut command = Command::new("ip");
        command
            .args(line.split_whitespace())
            .current_dir(folder.path(""))
            .env("TMPDIR", files_of_mpi(&folder))
            .env("XDG_CACHE_HOME", folder.path("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null());
        command
    };
    let line =
        "sft --model base --data demos.jsonl --steps 100000 --save-every 5 --out runs/long --quiet";
    let of_three = mpirun("10.77.0.1:1,10.77.0.2:1,10.77.0.3:1", line);
    let mut running = Running::start(&folder, of_three);
    let run_dir = folder.path("runs/long");
    running.until_a_checkpoint(&run_dir);
    hosts.unplug(3);
    let gone = Instant::now();
    let (status, said) = running.end();
    assert!(!status.success() && said.contains("10.77.0.3"), "{said}");
    assert!(
        gone.elapsed() < Duration::from_secs(60),
        "{:?}",
        gone.elapsed()
    );

    let newest = rlhf_train::newest_checkpoint(&run_dir).unwrap();
    let go_on = format!("sft --resume --steps {} --out runs/long", newest + 1);
    let output = mpirun("10.77.0.1:1,10.77.0.2:1", &go_on).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("resuming after step {newest}")));
}
