"""Seven updates by GaLore's AdamW: fixtures/train/galore.json.

The authors' own package, galore-torch 1.0, with its projector refreshed every three steps; a matrix taller than wide, one
wider than tall, and the other sides. Needs torch and the two files of galore-torch below, which need nothing else:
pip install torch transformers; pip install --no-deps galore-torch"""

import importlib.util
import sys
import types

import torch

from gradients import train, write

# The package's own __init__ wants a GPU library for its 8-bit variant; these two modules do not.
root = importlib.util.find_spec("galore_torch").submodule_search_locations[0]
sys.modules["galore_torch"] = types.ModuleType("galore_torch")
sys.modules["galore_torch"].__path__ = [root]
from galore_torch.adamw import AdamW
from galore_torch.galore_projector import GaLoreProjector

vectors_of = GaLoreProjector.get_orthogonal_matrix


def vectors_with_signs(self, weights, rank, type):
    """Singular vectors have no sign of their own, and moments that outlive a projection depend on it: as in the engine,
    the largest element of each is positive."""
    basis = vectors_of(self, weights, rank, type)
    rows = basis if type == "right" else basis.T
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    top = rows.abs().topk(2, 1).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4, "two elements are nearly the largest"
    return basis * (largest.sign() if type == "right" else largest.sign().T)


GaLoreProjector.get_orthogonal_matrix = vectors_with_signs
STEPS = [1, 3, 4, 7]
runs = []
for rows, cols, proj_type in [(12, 8, "std"), (8, 12, "std"), (12, 8, "left"), (12, 8, "reverse_std"), (8, 12, "right")]:
    of = lambda p: AdamW(
        [{"params": [p], "rank": 3, "update_proj_gap": 3, "scale": 0.5, "proj_type": proj_type}],
        lr=0.02, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, no_deprecation_warning=True,
    )
    after = train(of, 7, rows, cols)
    runs.append({"rows": rows, "cols": cols, "proj_type": proj_type, "after": [after[i - 1] for i in STEPS]})
write("galore.json", {"torch": torch.__version__, "steps": STEPS, "runs": runs})
