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


def environment():
    info = open("/proc/cpuinfo").read()
    field = lambda name: next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(name)), "unknown")
    simd = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in field("flags").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": field("model name"),
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
    return rival.run("matmul.py", "matmul", [])["flops"]


def help_seconds(times=20):
    """Median wall time of `rlhf --help`, from starting the process to its end."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run([RLHF, "--help"], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])
