"""TRL's RewardTrainer on pairs of token ids."""

import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from common import StepClock, arguments, losses, read, tokenizer, trainer_settings, write

a = arguments(__doc__, batch=8, steps=16, lr=1e-5)
rows = read(a.rows)
reads = tokenizer(a.model)
model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=1, dtype=torch.float32)
model.config.pad_token_id = reads.pad_token_id
clock = StepClock()
with tempfile.TemporaryDirectory() as folder:
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(max_length=512, **trainer_settings(a, folder)),
        train_dataset=Dataset.from_list([{k: row[k] for k in ("chosen_ids", "rejected_ids")} for row in rows]),
        processing_class=reads,
        callbacks=[clock],
    )
    trainer.train()
# The distinct tokens of a step: every prompt once, as `rlhf` counts them.
distinct = [len(row["chosen_ids"]) + len(row["rejected_ids"]) - row["prompt_length"] for row in rows]
tokens = [sum(distinct[i * a.batch : (i + 1) * a.batch]) for i in range(a.steps)]
write(a.result, seconds=clock.seconds, losses=losses(trainer), tokens=tokens)
