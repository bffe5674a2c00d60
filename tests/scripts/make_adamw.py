"""Eight updates by AdamW as PyTorch makes them by default (β₁ 0.9, β₂ 0.999, ε 1e-8), in float64: fixtures/train/adamw.json.

Each with gradients of an ordinary size, of which every step is about the learning rate, and with gradients a hundred million
times smaller, whose roots are about ε: there its place in the formula shows. Needs torch: pip install torch"""

import torch

from gradients import train, write

runs = []
for size in [1.0, 1e-8]:
    for decay in [0.0, 0.1]:
        of = lambda p: torch.optim.AdamW([p], lr=0.01, weight_decay=decay)
        runs.append({"size": size, "weight_decay": decay, "after": train(of, 8, 6, 9, size=size)})
write("adamw.json", {"torch": torch.__version__, "rows": 6, "cols": 9, "lr": 0.01, "runs": runs})
