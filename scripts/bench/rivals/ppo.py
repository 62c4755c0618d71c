"""TRL 0.24's PPOTrainer: policy, reference, reward model and a separate critic; every response runs to its full length."""

import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl import PPOConfig, PPOTrainer

from common import arguments, read, tokenizer, write

a = arguments(__doc__, reward="", episodes=16, response_length=64, epochs=4, steps=2, micro_batch=4)


class Clock(TrainerCallback):
    """PPOTrainer tells of the end of a step only."""

    def __init__(self):
        self.seconds = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seconds.append(now - self.begun)
        self.begun = now


def language_model():
    return AutoModelForCausalLM.from_pretrained(a.model, torch_dtype=torch.float32)


def scalar_model():
    return AutoModelForSequenceClassification.from_pretrained(a.reward, num_labels=1, torch_dtype=torch.float32)


reads = tokenizer(a.model, padding_side="left")
rows = read(a.rows)[: a.episodes]
clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=a.micro_batch,
            gradient_accumulation_steps=a.episodes // a.micro_batch,
            num_mini_batches=1,
            num_ppo_epochs=a.epochs,
            total_episodes=a.steps * a.episodes,
            local_rollout_forward_batch_size=a.episodes,
            response_length=a.response_length,
            num_sample_generations=0,
            learning_rate=1e-5,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        ),
        processing_class=reads,
        model=language_model(),
        ref_model=language_model(),
        reward_model=scalar_model(),
        value_model=scalar_model(),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        callbacks=[clock],
    )
    trainer.train()
tokens = sum(len(row["input_ids"]) for row in rows) + a.episodes * a.response_length
write(a.result, seconds=clock.seconds, tokens=[tokens] * a.steps)
