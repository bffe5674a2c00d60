"""ThinK (arXiv 2407.21018) in NumPy: which key channels of each KV head stay, and the logits that follow. Writes
../fixtures/kv/think.json.

A channel's score is mean over the last queries of q² (mean over the group) times mean over the rows of k²; the int(d · ratio)
lowest go, for all rows but the newest `recent_size`.
"""

import numpy as np
from kv_inputs import values, write

N, HEADS, KV, D, W = 50, 6, 2, 32, 8


def inputs():
    q, k = values(31, W, HEADS, D), values(32, N, KV, D).astype(np.float16).astype(np.float32)
    c = np.arange(D)
    q = (q * ((c * 7 % 13 + 1) / np.float32(8)).astype(np.float32)).astype(np.float32)
    k = (k * ((c * 5 % 11 + 1) / np.float32(8)).astype(np.float32)).astype(np.float16).astype(np.float32)
    return q, k


def kept(q, k, ratio):
    """Channels that stay, ascending; ties drop the lower channel first."""
    scores = (q.astype(np.float64) ** 2).mean((0, 1)) * (k.astype(np.float64) ** 2).mean(0)
    order = np.lexsort((np.arange(D), scores))
    return sorted(int(c) for c in order[int(D * ratio) :])


if __name__ == "__main__":
    q, k = inputs()
    group = HEADS // KV
    cases = []
    for ratio, recent in [(0.4, 8), (0.25, 16), (0.6, 5), (0.0, 8)]:
        masks, logits = [], []
        for h in range(KV):
            mask = kept(q[:, h * group : (h + 1) * group], k[:, h], ratio)
            narrow = np.zeros_like(k[:, h])
            narrow[:, mask] = k[:, h][:, mask]
            narrow[N - recent :] = k[N - recent :, h]
            masks.append(mask)
            logits.append(np.round(narrow.astype(np.float64) @ q[-1, h * group].astype(np.float64), 6).tolist())
        cases.append({"pruning_ratio": ratio, "recent_size": recent, "channels": masks, "logits": logits})
    write("think", {"cases": cases})
