"""Runs one process on the chosen cores and tells what it cost."""

import os
import subprocess
import sys

from bench.home import HOME

CORES = sorted(os.sched_getaffinity(0))[:2]

# Where RLHF_SIMD narrows our instructions, these narrow PyTorch's, MKL's and oneDNN's alike.
NARROWED = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}


class Failed(Exception):
    pass


def run(command, log, cores=CORES):
    """Returns peak memory in bytes and the share of the cores' time that something else used.

    What the process prints goes to `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(len(cores))
    environment = os.environ | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_DATASETS_CACHE": str(HOME / "datasets"),
    } | NARROWED.get(os.environ.get("RLHF_SIMD"), {})
    busy = busy_seconds(cores), os.times().elapsed
    with log.open("w") as out:
        child = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Failed(f"{command[0]} ended with {child.returncode}; the end of {log}:\n" + log.read_text()[-1500:])
    others = busy_seconds(cores) - busy[0] - usage.ru_utime - usage.ru_stime
    wall = os.times().elapsed - busy[1]
    # Linux counts in KiB.
    return {"peak": usage.ru_maxrss * 1024, "others": max(0.0, others / (wall * len(cores)))}


def busy_seconds(cores):
    """Time the cores were not idle since the machine started."""
    ticks = 0
    for line in open("/proc/stat"):
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, fields)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


def say(text):
    print(text, file=sys.stderr, flush=True)
