"""Where things are."""

import os
import pathlib

REPO = pathlib.Path(__file__).resolve().parents[3]
RIVALS = REPO / "scripts/bench/rivals"
HOME = pathlib.Path(os.environ.get("RLHF_BENCH_HOME") or pathlib.Path.home() / ".cache/rlhf-bench")
MODELS = HOME / "models"
ROWS = HOME / "rows"
RUNS = HOME / "runs"
RESULTS = HOME / "results"
RLHF = pathlib.Path(os.environ.get("RLHF_BIN") or REPO / "target/release/rlhf")


def python(venv):
    return HOME / "venv" / venv / "bin/python"


def shown(command):
    """A command as a reader would type it: no paths of this machine."""
    text = " ".join(str(part) for part in command)
    for path, name in [(RLHF, "rlhf"), (HOME, "$RLHF_BENCH_HOME"), (REPO, ".")]:
        text = text.replace(str(path), name)
    return text
