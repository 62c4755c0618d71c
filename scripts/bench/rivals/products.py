"""A linear layer's matrix products by PyTorch and by NumPy: y = x·Wᵀ, and dX = G·W with dW = Gᵀ·X. A JSON object a shape."""

import argparse
import json
import time


def torch_products(threads, dtype="float32"):
    import torch

    torch.set_num_threads(threads)
    kind = dict(dtype=getattr(torch, dtype))

    def make(rows, inputs, outputs):
        x, w, g = torch.randn(rows, inputs, **kind), torch.randn(outputs, inputs, **kind), torch.randn(rows, outputs, **kind)
        y, dx, dw = torch.empty(rows, outputs, **kind), torch.empty(rows, inputs, **kind), torch.empty(outputs, inputs, **kind)
        forward = lambda: torch.mm(x, w.t(), out=y)
        backward = lambda: (torch.mm(g, w, out=dx), torch.mm(g.t(), x, out=dw))
        return forward, backward

    return make


def numpy_products(_threads):
    import numpy as np

    def make(rows, inputs, outputs):
        new = lambda *shape: np.random.randn(*shape).astype(np.float32)
        x, w, g = new(rows, inputs), new(outputs, inputs), new(rows, outputs)
        y, dx, dw = (np.empty(shape, np.float32) for shape in ((rows, outputs), (rows, inputs), (outputs, inputs)))
        forward = lambda: np.matmul(x, w.T, out=y)
        backward = lambda: (np.matmul(g, w, out=dx), np.matmul(g.T, x, out=dw))
        return forward, backward

    return make


def rate(flops, f):
    """GFLOP/s of the fastest of several runs."""
    f()
    least = float("inf")
    for _ in range(int(min(50, max(3, 2e10 / flops)))):
        begun = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - begun)
    return flops / least / 1e9


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--by", choices=["torch", "torch-bf16", "numpy"], required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--shapes", required=True, help="[[rows, inputs, outputs], …] as JSON")
a = parser.parse_args()
makers = {"torch": torch_products, "torch-bf16": lambda threads: torch_products(threads, "bfloat16"), "numpy": numpy_products}
make = makers[a.by](a.threads)
for rows, inputs, outputs in json.loads(a.shapes):
    forward, backward = make(rows, inputs, outputs)
    flops = 2 * rows * inputs * outputs
    rates = {"forward": rate(flops, forward), "backward": rate(2 * flops, backward)}
    print(json.dumps({"rows": rows, "inputs": inputs, "outputs": outputs} | rates), flush=True)
