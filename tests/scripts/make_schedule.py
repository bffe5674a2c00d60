"""Learning rates of Hugging Face's and PyTorch's schedulers, as shares of the peak: fixtures/train/schedule.json.

Needs torch and transformers: pip install torch transformers"""

import json
import warnings
from pathlib import Path

import torch
import transformers
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

warnings.filterwarnings("ignore")
HF = transformers.optimization


def shares(make, steps):
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, out = make(optimizer), []
    for _ in range(steps):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


cases = []


def case(source, steps, make, *, warmup=0, decay="constant", decay_from=0.0, lr_end=0.0, skip=0):
    """`skip` steps at the beginning are not compared: Hugging Face's warm-up begins at a rate of zero."""
    of = {"steps": steps, "warmup": warmup, "decay": decay, "decay_from": decay_from, "lr_end": lr_end}
    cases.append({"source": source, **of, "skip": skip, "shares": shares(make, steps)})


for steps in (1, 2, 7, 20):
    case("get_linear_schedule_with_warmup", steps, lambda o: HF.get_linear_schedule_with_warmup(o, 0, steps), decay="linear")
    case("get_cosine_schedule_with_warmup", steps, lambda o: HF.get_cosine_schedule_with_warmup(o, 0, steps), decay="cosine")
    case("LinearLR", steps, lambda o: LinearLR(o, 1.0, 0.1, steps), decay="linear", lr_end=0.1)
    case("CosineAnnealingLR", steps, lambda o: CosineAnnealingLR(o, steps, eta_min=0.1), decay="cosine", lr_end=0.1)
case("get_linear_schedule_with_warmup", 20, lambda o: HF.get_linear_schedule_with_warmup(o, 5, 20), warmup=5, decay="linear", skip=5)
case("get_cosine_schedule_with_warmup", 20, lambda o: HF.get_cosine_schedule_with_warmup(o, 5, 20), warmup=5, decay="cosine", skip=5)
case(
    "get_cosine_with_min_lr_schedule_with_warmup", 20,
    lambda o: HF.get_cosine_with_min_lr_schedule_with_warmup(o, 5, 20, min_lr_rate=0.2),
    warmup=5, decay="cosine", lr_end=0.2, skip=5,
)
case(
    "get_wsd_schedule", 20,
    lambda o: HF.get_wsd_schedule(o, num_warmup_steps=4, num_decay_steps=8, num_stable_steps=8, decay_type="linear", min_lr_ratio=0.1),
    warmup=4, decay="linear", decay_from=0.6, lr_end=0.1, skip=4,
)
# A warm-up whose first step has a rate above zero is PyTorch's.
case(
    "SequentialLR of LinearLR and CosineAnnealingLR", 20,
    lambda o: SequentialLR(o, [LinearLR(o, 1 / 5, 1.0, 4), CosineAnnealingLR(o, 15)], [5]),
    warmup=5, decay="cosine",
)
case("LinearLR", 9, lambda o: LinearLR(o, 1 / 4, 1.0, 3), warmup=4)

out = {"torch": torch.__version__, "transformers": transformers.__version__, "cases": cases}
path = Path(__file__).parent.parent / "fixtures" / "train" / "schedule.json"
path.write_text(json.dumps(out, indent=1) + "\n")
