"""Writes tests/fixtures/adamw.json: ten steps of torch.optim.AdamW with gradient clipping and transformers' cosine schedule.

The gradients are given, small and large in turn, so that clipping acts on some steps and not on others.
Read by crates/train/src/optimizer.rs. Run from the root of the repository: python scripts/oracle/adamw.py
"""

import json
import pathlib

import torch
from transformers import get_scheduler

torch.manual_seed(0)
STEPS, LR, WARMUP, MAX_NORM = 10, 0.1, 2, 1.0
BETA1, BETA2, EPS, WEIGHT_DECAY = 0.9, 0.95, 1e-6, 0.1

params = {"b": torch.nn.Parameter(torch.randn(3)), "w": torch.nn.Parameter(torch.randn(2, 4))}
# Biases and norms, which have one dimension, do not decay.
groups = [
    {"params": [params["w"]], "weight_decay": WEIGHT_DECAY},
    {"params": [params["b"]], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=LR, betas=(BETA1, BETA2), eps=EPS, foreach=False)
schedule = get_scheduler("cosine", optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)


def values():
    return {name: p.detach().flatten().tolist() for name, p in params.items()}


fixture = {
    "torch": torch.__version__,
    "config": {"beta1": BETA1, "beta2": BETA2, "eps": EPS, "weight_decay": WEIGHT_DECAY},
    "lr": LR,
    "warmup": WARMUP,
    "max_grad_norm": MAX_NORM,
    "shapes": {name: list(p.shape) for name, p in params.items()},
    "initial": values(),
    "steps": [],
}
for step in range(STEPS):
    for p in params.values():
        p.grad = torch.randn_like(p) * (0.1 if step % 2 else 2.0)
    grads = {name: p.grad.flatten().tolist() for name, p in params.items()}
    norm = torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM).item()
    optimizer.step()
    schedule.step()
    fixture["steps"].append({"grads": grads, "norm": norm, "params": values()})

path = pathlib.Path("tests/fixtures/adamw.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(fixture) + "\n")
