"""TRL's RLOOTrainer with the run's reward model, calibrated and clipped as in `rlhf ppo`, as many episodes and optimizer steps.

TRL clips the ratio of a whole response, ours that of each token; that is its algorithm and stays.
"""

import tempfile

import torch
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer

from task import Stopwatch, Task

task = Task()
s = task.settings
reads = task.tokenizer()
policy, judge = task.language_model(), task.scalar_model().eval()
mean, std = task.calibration()


def reward(prompts, completion_ids, **_):
    """The calibrated score at the last token, clipped; what has no end token gets the value that the run's rule gives it."""
    encoded = [reads(prompt, add_special_tokens=False)["input_ids"] + ids for prompt, ids in zip(prompts, completion_ids)]
    padded = reads.pad({"input_ids": encoded}, padding_side="right", return_tensors="pt")
    with torch.inference_mode():
        scores = (judge(**padded).logits[:, 0] - mean) / std
    scores = scores.clamp(-s["score_clip"], s["score_clip"])
    ended = torch.tensor([ids[-1] == reads.eos_token_id for ids in completion_ids])
    return torch.where(ended, scores, s["missing_eos"]["replace"]).tolist()


minibatch = s["batch"] // s["minibatches"]
with tempfile.TemporaryDirectory() as folder:
    with Stopwatch() as watch:
        trainer = RLOOTrainer(
            model=policy,
            reward_funcs=reward,
            args=RLOOConfig(
                output_dir=folder,
                per_device_train_batch_size=minibatch,
                gradient_accumulation_steps=1,
                steps_per_generation=s["minibatches"],
                num_iterations=s["epochs"],
                num_generations=s["samples_per_prompt"],
                max_completion_length=s["response_length"],
                temperature=s["temperature"],
                beta=s["kl_coef"],
                epsilon=s["clip"],
                # Absent, it is as in the paper, which does not.
                normalize_advantages=s.get("whiten_advantages", False),
                **task.trainer_settings(s["steps"] * s["minibatches"] * s["epochs"]),
            ),
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in task.rows]),
            processing_class=reads,
        )
        watch.lap()
        trainer.train()
log = [entry for entry in trainer.state.log_history if "loss" in entry]
task.finish(policy, watch, log, optimizer_steps=trainer.state.global_step)
