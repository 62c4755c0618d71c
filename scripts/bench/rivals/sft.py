"""TRL's SFTTrainer on rows of token ids, completions only; with --lora RANK it trains an adapter of PEFT's."""

import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from common import StepClock, arguments, losses, read, tokenizer, trainer_settings, write

a = arguments(__doc__, batch=8, steps=12, lr=2e-5, lora=0)
rows = read(a.rows)
adapter = None
if a.lora:
    from peft import LoraConfig

    adapter = LoraConfig(r=a.lora, lora_alpha=2 * a.lora, target_modules="all-linear", task_type="CAUSAL_LM")
clock = StepClock()
with tempfile.TemporaryDirectory() as folder:
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32),
        args=SFTConfig(completion_only_loss=True, max_length=512, **trainer_settings(a, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(a.model),
        callbacks=[clock],
        peft_config=adapter,
    )
    trainer.train()
lengths = [len(row["input_ids"]) for row in rows]
tokens = [sum(lengths[i * a.batch : (i + 1) * a.batch]) for i in range(a.steps)]
write(a.result, seconds=clock.seconds, losses=losses(trainer), tokens=tokens)
