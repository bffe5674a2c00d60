"""Loss and gradients of a small convolutional net in PyTorch, float64: fixtures/train/small_net.json.

Values follow formulas that the test of core/src/device/small_net.rs repeats. Needs torch: pip install torch"""

import json
import math
import os

import torch

torch.set_default_dtype(torch.float64)


def wave(n, k):
    return torch.tensor([math.sin(0.7 * i + k) for i in range(n)], dtype=torch.float32).to(torch.float64)


x = wave(2 * 3 * 6 * 5, 0.1).reshape(2, 3, 6, 5).requires_grad_()
filters = (0.3 * wave(4 * 3 * 3 * 3, 0.2)).to(torch.float32).to(torch.float64).reshape(4, 3, 3, 3).requires_grad_()
head = wave(3 * 4, 0.3).reshape(3, 4).requires_grad_()
y = torch.relu(torch.nn.functional.conv2d(x, filters, stride=2, padding=1))
logits = y.mean((2, 3)) @ head.T
loss = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="sum")
loss.backward()
flat = lambda t: [float(f"{v:.9g}") for v in t.reshape(-1).tolist()]
out = {
    "torch": torch.__version__, "loss": loss.item(), "largest": flat(y.detach().amax((2, 3))),
    "x": flat(x.grad), "filters": flat(filters.grad), "head": flat(head.grad),
}
with open(os.path.join(os.path.dirname(__file__), "../fixtures/train/small_net.json"), "w") as f:
    json.dump(out, f)
    f.write("\n")
