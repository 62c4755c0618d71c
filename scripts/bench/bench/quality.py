"""A rival trained from the models of a finished run of configs/compare.toml, and what the run's own judge says of it."""

import dataclasses
import hashlib
import json
import shutil
import tomllib

from bench import process
from bench.home import HOME, REPO, RIVALS, RLHF, python

WORK = HOME / "compare"


@dataclasses.dataclass
class Rival:
    """TRL's way to do what a stage of ours does."""

    title: str
    script: str
    venv: str
    # The run of ours whose settings it takes, and the section they stand in.
    ours: str
    section: str
    rows: str
    # Settings that TRL cannot be told, and the value with which it does the same.
    taken_for_granted: dict


PPO = {
    "prompts": [], "kl_in": "reward", "gamma": 1.0, "whiten_rewards": False, "min_response_length": 0, "stop": [], "entropy_coef": 0.0,
    "ptx_coef": 0.0, "aggregate": "token", "raw": False, "uncalibrated": False,
    "kl_target": None, "target_kl": None, "max_kl": None, "compat": None,
}
GAE = PPO | {"advantage": "gae", "critic": "separate", "whiten_advantages": True}
RLOO = PPO | {"advantage": "rloo", "kl_estimator": "k1"}
DPO = {
    "prefs": [], "loss": "sigmoid", "label_smoothing": 0.0, "normalise": False, "margin_per_strength": 0.0, "raw": False,
    "shuffle": True,
}
TRAINED = {
    "dpo": Rival("TRL 1.16 DPO", "train_dpo.py", "current", "dpo", "dpo", "preferences.jsonl", DPO),
    "ppo": Rival("TRL 0.24 PPO", "train_ppo.py", "ppo", "ppo", "ppo", "prompts.jsonl", GAE),
    "rloo": Rival("TRL 1.16 RLOO", "train_rloo.py", "current", "rloo", "ppo", "prompts.jsonl", RLOO),
}


def read(path):
    return json.loads(path.read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluation(seed_folder):
    """The models of our side, by name, as the run has judged them."""
    return {model["name"]: model for model in read(seed_folder / "evaluation.json")["models"]}


def settings(rival, seed_folder):
    """Those that our run recorded, once it is clear that the rival can follow them."""
    folder = seed_folder / rival.ours
    if not (folder / "final").exists():
        raise process.Failed(f"{folder} holds no finished run: `rlhf run configs/compare.toml --seeds 3` makes one")
    recorded = tomllib.loads((folder / "config.toml").read_text())
    if recorded.get("lora", {}).get("rank", 0) > 0:
        raise process.Failed(f"{folder} trained an adapter, and the rivals train all weights")
    found = recorded[rival.section]
    for name, value in rival.taken_for_granted.items():
        # A setting that is absent is at its default, which is this value.
        if found.get(name, value) != value:
            raise process.Failed(f"{folder}/config.toml: {rival.title} cannot be told {name} = {found[name]!r}, only {value!r}")
    seen = read(folder / "inputs.json")["sha256"].get(f"the bundled {rival.rows}")
    if seen != sha256(REPO / "data" / rival.rows):
        raise process.Failed(f"{folder} was not trained on this repository's data/{rival.rows}")
    return found


def identity(name, seed_folder):
    """What a training depends on: a figure counts as long as this is the same."""
    models = [sha256(seed_folder / stage / "final/model.safetensors") for stage in ("sft", "reward")]
    return [*models, settings(TRAINED[name], seed_folder)]


def train(name, seed_folder, seed, steps=None):
    """Trains one; its folder and figures. `steps` makes it short, to see whether it works."""
    rival = TRAINED[name]
    out = WORK / f"seed-{seed}" / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    task = {
        "sft": str((seed_folder / "sft/final").resolve()),
        "reward": str((seed_folder / "reward/final").resolve()),
        "out": str(out),
        "result": str(out / "result.json"),
        "seed": seed,
        "rows": str(REPO / "data" / rival.rows),
        "settings": settings(rival, seed_folder) | ({"steps": steps} if steps else {}),
    }
    (out / "task.json").write_text(json.dumps(task))
    cost = process.run([python(rival.venv), RIVALS / rival.script, out / "task.json"], out / "log")
    figures = read(out / "result.json")
    figures.pop("log")  # of every step; it stays in result.json
    return out, cost | figures


def judge(seed_folder, seed, model):
    """What `rlhf eval` says of it: the prompts, the seed and the sampling of the run's own evaluation."""
    asked = tomllib.loads((seed_folder / "ppo/config.toml").read_text())["ppo"]
    sft = seed_folder / "sft/final"
    command = [RLHF, "eval", "--model", model, "--against", sft, "--reward", seed_folder / "reward/final", "--seed", seed]
    for setting in ("temperature", "response_length"):
        command += ["--set", f"ppo.{setting}={asked[setting]}"]
    command += ["--set", "eval.best_of=1", "--set", "eval.examples=0"]
    log = model / "eval.log"
    process.run([*command, "--threads", len(process.CORES), "--json", "--quiet"], log)
    said = next(line for line in log.read_text().splitlines() if line.startswith("{"))
    reference, judged = json.loads(said)["models"]
    before = evaluation(seed_folder)["sft"]
    for figure in ("gold", "reward"):
        if abs(reference[figure] - before[figure]) > 1e-6:
            raise process.Failed(
                f"the judge gives {sft} the {figure} {reference[figure]}, but the run's evaluation.json says {before[figure]}: other prompts, "
                "another sampling or another rlhf; set RLHF_BIN to the one that made the run"
            )
    return {figure: judged[figure] for figure in ("gold", "reward", "kl", "win_rate")}
