"""Prints the learning rates that crates/train/src/schedule.rs is tested against: transformers' own, base 10."""

import torch
from transformers import get_scheduler

for name, warmup, total in [
    ("constant_with_warmup", 4, 8),
    ("linear", 4, 8),
    ("linear", 0, 5),
    ("cosine", 3, 8),
    ("cosine", 0, 4),
]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=10.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(total + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    print(name, warmup, total, rates)
