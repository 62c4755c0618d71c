"""transformers' generate: greedy, exactly NEW tokens a prompt, prompts padded on the left."""

import time

import torch
from transformers import GPT2LMHeadModel

from common import arguments, read, tokenizer, write

a = arguments(__doc__, batch=8, new=64)
reads = tokenizer(a.model, padding_side="left")
model = GPT2LMHeadModel.from_pretrained(a.model, dtype=torch.float32).eval()
ids = [row["input_ids"] for row in read(a.rows)][: a.batch]
padded = reads.pad({"input_ids": ids}, return_tensors="pt")
settings = dict(do_sample=False, pad_token_id=reads.pad_token_id)
with torch.inference_mode():
    model.generate(**padded, max_new_tokens=2, min_new_tokens=2, **settings)
    begun = time.perf_counter()
    out = model.generate(**padded, max_new_tokens=a.new, min_new_tokens=a.new, **settings)
    seconds = time.perf_counter() - begun
responses = out[:, padded["input_ids"].shape[1] :]
texts = reads.batch_decode(responses, skip_special_tokens=True)
write(a.result, seconds=[seconds], tokens=[responses.numel()], texts=texts)
