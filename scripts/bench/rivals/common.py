"""What the rivals' scripts share: threads, the clock of a Trainer's steps, the result."""

import argparse
import json
import os
import pathlib
import time

import torch
import transformers
from transformers import PreTrainedTokenizerFast, TrainerCallback

transformers.logging.set_verbosity_error()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def arguments(description, **numbers):
    """--model, --rows and --result, and an integer flag with its default for each of `numbers`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=pathlib.Path, required=True)
    parser.add_argument("--result", type=pathlib.Path, required=True)
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, **result):
    path.write_text(json.dumps(result))


def tokenizer(folder, padding_side="right"):
    """With a pad token that is not the EOS token, or the end would be masked."""
    fast = PreTrainedTokenizerFast.from_pretrained(folder, padding_side=padding_side)
    if fast.pad_token_id in (None, fast.eos_token_id):
        other = fast.unk_token_id
        fast.pad_token = fast.unk_token if other not in (None, fast.eos_token_id) else fast.convert_ids_to_tokens(0)
    return fast


class StepClock(TrainerCallback):
    """Seconds of every optimizer step of a Trainer."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.begun)


def trainer_settings(a, folder):
    """The settings that both trainers of TRL take, for the same work as ours: f32, AdamW, one pass in file order.

    Without gradient checkpointing, which TRL turns on by default and which costs it about a third of its speed.
    """
    return dict(
        output_dir=folder,
        per_device_train_batch_size=a.batch,
        max_steps=a.steps,
        learning_rate=a.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
