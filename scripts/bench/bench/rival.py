"""The other side: one small Python script a work, each timing its own steps."""

import json

from bench import process
from bench.home import RIVALS, RUNS, python, shown


def run(script, label, arguments, venv="current", cores=process.CORES):
    result = RUNS / f"{label}.json"
    command = [python(venv), RIVALS / script, *arguments, "--result", result]
    cost = process.run(command, RUNS / f"{label}.log", cores)
    return cost | {"command": shown(command)} | json.loads(result.read_text())
