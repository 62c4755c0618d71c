"""TRL's DPOTrainer on all untied pairs of rankings, with as many optimizer steps as `rlhf dpo` takes.

A step of ours takes `batch` rankings, each with all its pairs; TRL knows pairs only, so its step takes the same share of all pairs.
Tied pairs, which TRL has no way to write, are left out.
"""

import math
import tempfile

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from task import Stopwatch, Task


def pairs(rows):
    for row in rows:
        judged = list(zip(row["ranks"], row["responses"]))
        for i, (rank, response) in enumerate(judged):
            for other_rank, other in judged[i + 1 :]:
                if rank != other_rank:
                    chosen, rejected = (response, other) if rank < other_rank else (other, response)
                    yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def check(dataset, rows, reads, longest):
    """TRL tokenises prompt and answer together, ours apart; that both see the same tokens is checked, and that neither cuts any."""
    of = lambda text: reads(text, add_special_tokens=False)["input_ids"]
    for seen, row in zip(dataset, rows, strict=True):
        assert seen["prompt_ids"] == of(row["prompt"]), row
        for side in ("chosen", "rejected"):
            assert seen[f"{side}_ids"] == of(row[side]) + [reads.eos_token_id], row
            assert len(seen["prompt_ids"] + seen[f"{side}_ids"]) <= longest, row


task = Task()
s = task.settings
reads = task.tokenizer()
rows = list(pairs(task.rows))
steps_per_epoch = math.ceil(len(task.rows) / s["batch"])
batch = math.ceil(len(rows) / steps_per_epoch)
assert math.ceil(len(rows) / batch) == steps_per_epoch
steps = s["steps"] or steps_per_epoch * s["epochs"]
policy = task.language_model()
with tempfile.TemporaryDirectory() as folder:
    with Stopwatch() as watch:
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(
                output_dir=folder,
                per_device_train_batch_size=batch,
                beta=s["beta"],
                loss_type=[s["loss"]],
                max_length=s["max_length"],
                # As ours: once before the training, instead of in every step.
                precompute_ref_log_probs=True,
                **task.trainer_settings(steps),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=reads,
        )
        watch.lap()
        trainer.train()
check(trainer.train_dataset, rows, reads, s["max_length"])
log = [entry for entry in trainer.state.log_history if "loss" in entry]
task.finish(policy, watch, log, pairs=len(rows), batch=batch, optimizer_steps=trainer.state.global_step)
