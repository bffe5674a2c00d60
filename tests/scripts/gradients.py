"""Parameters and gradients from formulas that the tests of `core/src/train/optimizer` repeat, and how references are written."""

import json
import math
import os

import torch


def parameter(rows, cols):
    n = rows * cols
    return torch.tensor([0.1 * math.sin(0.7 * i + 1.3) for i in range(n)], dtype=torch.float32).reshape(rows, cols)


def gradient(step, rows, cols):
    """Of step 1, 2, …: a few terms of falling size, so that singular values lie apart, and a little of every direction."""

    def at(r, c):
        terms = (
            0.5**k * math.sin(0.7 * (k + 1) * r + 0.3 * step + k) * math.cos(0.45 * (k + 1) * c + 0.2 * step * k + 0.5)
            for k in range(6)
        )
        return sum(terms) + 0.01 * math.sin(3.1 * (r * cols + c) + step)

    values = [[at(r, c) for c in range(cols)] for r in range(rows)]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32)


def train(optimizer_of, steps, rows, cols, dtype=torch.float64, size=1.0):
    """The parameter after each of `steps` updates by gradients of this size, computed in `dtype`."""
    p = torch.nn.Parameter(parameter(rows, cols).to(dtype))
    optimizer = optimizer_of(p)
    after = []
    for step in range(1, steps + 1):
        p.grad = (gradient(step, rows, cols) * torch.tensor(size, dtype=torch.float32)).to(dtype)
        optimizer.step()
        after.append([float(f"{v:.9g}") for v in p.detach().reshape(-1).tolist()])
    return after


def write(name, of):
    path = os.path.join(os.path.dirname(__file__), "../fixtures/train", name)
    with open(path, "w") as f:
        json.dump(of, f)
        f.write("\n")
