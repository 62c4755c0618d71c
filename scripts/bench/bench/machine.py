"""What the measurements were taken on and with."""

import datetime
import os
import platform
import statistics
import subprocess
import time

from bench import process, rival
from bench.home import REPO, RLHF, python

VERSIONS = "import importlib.metadata as m; print(' '.join(f'{p} {m.version(p)}' for p in ('torch', 'transformers', 'trl')))"


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPO).stdout.strip()


def of_cpu(name):
    """A field of /proc/cpuinfo."""
    lines = open("/proc/cpuinfo").read().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")


def environment():
    simd = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in of_cpu("flags").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": of_cpu("model name"),
        "simd": simd,
        "cores": len(process.CORES),
        "cores_of_machine": os.cpu_count(),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "rlhf": said(RLHF, "--version"),
        "commit": said("git", "describe", "--always", "--dirty"),
        "rustc": said("rustc", "--version"),
        "rivals": {venv: said(python(venv), "-c", VERSIONS) for venv in ("current", "ppo")},
    }


def matmul_peak():
    """FLOP/s of PyTorch's f32 matrix product, with one thread and with all of the benchmark's."""
    return {len(cores): rival.run("matmul.py", "matmul", [], cores=cores)["flops"] for cores in (process.CORES[:1], process.CORES)}


def help_seconds(times=20):
    """Median wall time of `rlhf --help`, from starting the process to its end."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run([RLHF, "--help"], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])
