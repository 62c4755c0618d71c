"""The machine's peak: PyTorch's f32 matrix product, square and large."""

import argparse
import json
import os
import pathlib
import time

import torch

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=4096)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--result", type=pathlib.Path, required=True)
a = parser.parse_args()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
x, y = torch.randn(a.size, a.size), torch.randn(a.size, a.size)
out = torch.mm(x, y)
best = float("inf")
for _ in range(a.repeats):
    begun = time.perf_counter()
    torch.mm(x, y, out=out)
    best = min(best, time.perf_counter() - begun)
a.result.write_text(json.dumps({"flops": 2 * a.size**3 / best}))
