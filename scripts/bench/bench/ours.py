"""Our side: the product's own commands, timed by what they log themselves."""

import json
import re
import shutil

from bench import process
from bench.home import RLHF, RUNS, shown


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def stage(name, label, arguments, keep=False, cores=process.CORES):
    """Runs a training stage; seconds, losses and tokens of every step from metrics.jsonl and timings.jsonl."""
    out = RUNS / label
    command = [RLHF, name, *arguments, "--threads", len(cores), "--save-every", 0, "--out", out, "--overwrite"]
    log = RUNS / f"{label}.log"
    cost = process.run(command, log, cores)
    # Evaluations have lines of their own, without a step's numbers.
    steps = [m | t for m, t in zip(lines(out / "metrics.jsonl"), lines(out / "timings.jsonl")) if "tokens" in m]
    if not keep:
        shutil.rmtree(out)
    started = re.search(r"model loaded in ([\d.]+) s.*?first step begins ([\d.]+) s", log.read_text(), re.S)
    return cost | {
        "command": shown(command),
        "seconds": [sum(v for k, v in step.items() if k.startswith("time/")) for step in steps],
        "losses": [step.get("loss") for step in steps],
        "tokens": [step["tokens"] for step in steps],
        "parts": {k: [s[k] for s in steps] for k in steps[0] if k.startswith("time/") and k != "time/step"},
        "startup": [float(x) for x in started.groups()] if started else None,
    }


def sft(label, model, rows, batch, steps, max_length, lr="2e-5", dense=False, dtype="f32", lora=0, cores=process.CORES):
    arguments = ["--model", model, "--data", rows, "--batch", batch, "--steps", steps, "--max-length", max_length]
    # The rivals get the ids of the rows as they stand, without a chat template around them.
    arguments += ["--lr", lr, "--schedule", "constant", "--no-shuffle", "--raw", "--set", "sft.eval_fraction=0"]
    arguments += ["--train-on-prompt"] * dense + ["--dtype", dtype] * (dtype != "f32")
    arguments += ["--lora", lora] * (lora > 0)
    return stage("sft", label, arguments, cores=cores)


def reward(label, model, rows, eval_rows, batch, steps, max_length, lr="1e-5", lora=0, keep=False):
    arguments = ["--model", model, "--prefs", rows, "--eval-prefs", eval_rows, "--batch", batch, "--steps", steps]
    arguments += ["--max-length", max_length, "--lr", lr, "--schedule", "constant", "--no-shuffle", "--raw"]
    arguments += ["--lora", lora] * (lora > 0)
    return stage("reward", label, arguments, keep)


def ppo(label, model, reward_model, rows, eval_rows, episodes, length, epochs, steps, lora=0):
    arguments = ["--model", model, "--reward", reward_model, "--prompts", rows, "--eval-prompts", eval_rows]
    arguments += ["--batch", episodes, "--epochs", epochs, "--response-length", length, "--steps", steps, "--raw"]
    arguments += ["--set", f"ppo.min_response_length={length - 1}", "--set", "ppo.log_samples=0"]
    arguments += ["--lora", lora] * (lora > 0)
    return stage("ppo", label, arguments)


def generate(label, model, rows, batch, new):
    """The first `batch` prompts, greedily, exactly `new` tokens each."""
    RUNS.mkdir(parents=True, exist_ok=True)
    prompts = RUNS / f"{label}.jsonl"
    prompts.write_text("".join(rows.read_text().splitlines(True)[:batch]))
    command = [RLHF, "generate", "--model", model, "--prompts", prompts, "--batch", batch, "--temperature", 0]
    command += ["--max-new-tokens", new, "--min-new-tokens", new, "--threads", len(process.CORES)]
    log = RUNS / f"{label}.log"
    cost = process.run(command, log)
    # The log holds the responses, a JSON object a line, and one line for people with the time.
    text = log.read_text()
    responses = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    seconds = re.search(r"tokens in ([\d.]+) s", text)
    return cost | {
        "command": shown(command),
        "seconds": [float(seconds.group(1))],
        "tokens": [sum(response["tokens"] for response in responses)],
        "texts": [response["response"] for response in responses],
    }
