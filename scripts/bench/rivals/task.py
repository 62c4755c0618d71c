"""What a rival is to train for `scripts/bench/compare`: the models to start from, the settings, where the result goes."""

import json
import pathlib
import shutil
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import common

# `rlhf`'s names of schedules as transformers has them.
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


class Task:
    """One training, read from the JSON file that the script is given."""

    def __init__(self):
        given = json.loads(pathlib.Path(sys.argv[1]).read_text())
        self.sft, self.reward = given["sft"], pathlib.Path(given["reward"])
        self.out, self.result = pathlib.Path(given["out"]), pathlib.Path(given["result"])
        self.seed = given["seed"]
        # The section of the run's own config.toml, and rows of data/.
        self.settings = given["settings"]
        self.rows = common.read(pathlib.Path(given["rows"]))

    def tokenizer(self):
        return common.tokenizer(self.sft, padding_side="left")

    def language_model(self):
        return AutoModelForCausalLM.from_pretrained(self.sft, dtype=torch.float32)

    def scalar_model(self):
        """The reward model as it is: raw scores."""
        return AutoModelForSequenceClassification.from_pretrained(self.reward, num_labels=1, dtype=torch.float32)

    def calibration(self):
        """Mean and standard deviation of raw scores, which `rlhf` takes off and divides by."""
        measured = json.loads((self.reward / "reward.json").read_text())["calibration"]
        return measured["mean"], measured["std"]

    def trainer_settings(self, optimizer_steps):
        """What all trainers of TRL are told alike: f32, AdamW without decay, the run's rate and schedule; no checkpoints.

        Without gradient checkpointing, which TRL turns on by default and which costs it about a third of its speed.
        """
        s = self.settings
        return dict(
            max_steps=optimizer_steps,
            learning_rate=s["lr"],
            lr_scheduler_type=SCHEDULES[s["schedule"]],
            warmup_steps=s["warmup"],
            adam_epsilon=s.get("adam_eps", 1e-8),
            weight_decay=s.get("weight_decay", 0.0),
            max_grad_norm=s["max_grad_norm"],
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=self.seed,
        )

    def finish(self, model, watch, log, **more):
        """Writes the model, with tokenizer and configuration of the one it started from: nothing but the weights differ."""
        model.save_pretrained(self.out)
        for file in pathlib.Path(self.sft).iterdir():
            if file.suffix == ".json":
                shutil.copyfile(file, self.out / file.name)
        common.write(self.result, seconds=watch.seconds, prepared=watch.prepared, log=log, **more)


class Stopwatch:
    """Seconds of a training, from loaded models to the last optimizer step.

    Imports, loading and saving do not count. What the trainer prepares does: TRL's DPOTrainer tokenises and asks the reference in there.
    """

    def __enter__(self):
        self.begun = time.perf_counter()
        return self

    def lap(self):
        """The preparation is over."""
        self.prepared = time.perf_counter() - self.begun

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.begun
