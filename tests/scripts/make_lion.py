"""Five updates by Lion as lion-pytorch 0.2.5 makes them, in float64: fixtures/train/lion.json.

Needs torch and lion-pytorch: pip install torch lion-pytorch"""

import torch
from lion_pytorch import Lion

from gradients import train, write

of = lambda p: Lion([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
write("lion.json", {"torch": torch.__version__, "rows": 6, "cols": 9, "after": train(of, 5, 6, 9)})
