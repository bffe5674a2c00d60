"""Five updates by SGD with momentum as PyTorch makes them, in float64: fixtures/train/momentum.json.

With dampening and without, and looking ahead. Needs torch: pip install torch"""

import torch

from gradients import train, write

runs = []
for dampening, nesterov in [(0.0, False), (0.3, False), (0.0, True)]:
    of = lambda p: torch.optim.SGD(
        [p], lr=0.05, momentum=0.9, dampening=dampening, nesterov=nesterov, weight_decay=0.1
    )
    runs.append({"dampening": dampening, "nesterov": nesterov, "after": train(of, 5, 6, 9)})
write("momentum.json", {"torch": torch.__version__, "rows": 6, "cols": 9, "runs": runs})
