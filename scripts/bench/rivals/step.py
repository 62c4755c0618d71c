"""PyTorch, eager unless it is told to compile: forward, loss, backward, clipping, AdamW, of any causal language model on dense rows."""

import time

import torch
from transformers import AutoModelForCausalLM

from common import arguments, read, write

a = arguments(__doc__, batch=4, steps=6, length=256, lr=2e-5, bf16=0, device="cpu", compile=0)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).to(a.device).train()
model.config.use_cache = False
forward = torch.compile(model) if a.compile else model
optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, weight_decay=0.0)
rows = torch.tensor([row["input_ids"][: a.length] for row in read(a.rows)], device=a.device)
batches = rows[: a.steps * a.batch].split(a.batch)

seconds, losses = [], []
for ids in batches:
    begun = time.perf_counter()
    with torch.autocast(a.device, dtype=torch.bfloat16, enabled=bool(a.bf16)):
        loss = forward(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    seconds.append(time.perf_counter() - begun)
tokens = [ids.numel() for ids in batches]
write(a.result, seconds=seconds, losses=losses, tokens=tokens, parameters=sum(p.numel() for p in model.parameters()))
