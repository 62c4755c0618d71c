"""TRL's SFTTrainer on rows of token ids, completions only."""

import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from common import StepClock, arguments, losses, read, tokenizer, trainer_settings, write

a = arguments(__doc__, batch=8, steps=12, lr=2e-5)
rows = read(a.rows)
clock = StepClock()
with tempfile.TemporaryDirectory() as folder:
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32),
        args=SFTConfig(completion_only_loss=True, max_length=512, **trainer_settings(a, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(a.model),
        callbacks=[clock],
    )
    trainer.train()
lengths = [len(row["input_ids"]) for row in rows]
tokens = [sum(lengths[i * a.batch : (i + 1) * a.batch]) for i in range(a.steps)]
write(a.result, seconds=clock.seconds, losses=losses(trainer), tokens=tokens)
