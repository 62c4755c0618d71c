"""TRL 0.24's PPOTrainer with the run's reward model, calibrated and clipped as in `rlhf ppo`; as many prompts, episodes and optimizer steps.

Where TRL goes its own way it stays: gradients are not clipped, the score stands one slot after the end token, policy and critic share an
optimizer, and a response without an end token loses 1 of its score, whose mean is 0, where ours gets -1.
"""

import random
import tempfile

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import set_seed
from trl import PPOConfig, PPOTrainer

from task import Stopwatch, Task


class Calibrated(torch.nn.Module):
    """The head of a reward model, with its scores as `rlhf` uses them."""

    def __init__(self, head, mean, std, clip):
        super().__init__()
        self.head, self.mean, self.std, self.clip = head, mean, std, clip

    def forward(self, hidden):
        return ((self.head(hidden) - self.mean) / self.std).clamp(-self.clip, self.clip)


def asked(prompts, wanted, times, seed):
    """`wanted` prompts, each `times` times in a row, shuffled anew when all have been asked; TRL knows no samples per prompt."""
    shuffles, order = random.Random(seed), []
    while len(order) < wanted:
        order += shuffles.sample(prompts, len(prompts))
    return [prompt for prompt in order[:wanted] for _ in range(times)]


task = Task()
s = task.settings
set_seed(task.seed)
reads = task.tokenizer()
prompts = [{"input_ids": reads(row["prompt"], add_special_tokens=False)["input_ids"]} for row in task.rows]
policy, reference, critic, reward = task.language_model(), task.language_model(), task.scalar_model(), task.scalar_model()
reward.score = Calibrated(reward.score, *task.calibration(), s["score_clip"])
batch, times = s["batch"], s["samples_per_prompt"]
with tempfile.TemporaryDirectory() as folder:
    with Stopwatch() as watch:
        rows = Dataset.from_list(asked(prompts, s["steps"] * batch // times, times, task.seed))
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                # A minibatch is one pass; gradients that TRL accumulates would make fewer optimizer steps of it.
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=1,
                num_mini_batches=s["minibatches"],
                num_ppo_epochs=s["epochs"],
                total_episodes=s["steps"] * batch,
                local_rollout_forward_batch_size=batch,
                response_length=s["response_length"],
                temperature=s["temperature"],
                stop_token="eos",
                missing_eos_penalty=-s["missing_eos"]["replace"],
                kl_coef=s["kl_coef"],
                kl_estimator=s["kl_estimator"],
                cliprange=s["clip"],
                cliprange_value=s["value_clip"],
                vf_coef=s["value_coef"],
                gamma=s["gamma"],
                lam=s["lambda"],
                whiten_rewards=s["whiten_rewards"],
                num_sample_generations=0,
                **task.trainer_settings(s["steps"]),
            ),
            processing_class=reads,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=critic,
            train_dataset=rows,
            eval_dataset=rows,
        )
        # In the order of the rows, so that the answers to a prompt stay in one batch; TRL would shuffle them.
        trainer.dataloader = trainer.accelerator.prepare(DataLoader(rows, batch_size=batch, collate_fn=trainer.data_collator))
        watch.lap()
        trainer.train()
log = [entry for entry in trainer.state.log_history if "objective/kl" in entry]
task.finish(policy, watch, log, optimizer_steps=len(log) * s["epochs"] * s["minibatches"])
