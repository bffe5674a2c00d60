"""Quest (arXiv 2406.10774) in NumPy: a page's bounds, the pages that each query chooses, and attention over their rows. Writes
../fixtures/kv/quest.json: of each output the sum of its elements weighted by 1, 2, 3, …

Keys are as an f16 cache stores them, so that minima and maxima are exact in f16.
"""

import numpy as np
from kv_inputs import values, write

N, HEADS, KV, D, PAGE = 75, 6, 2, 32, 8


def inputs():
    q = 3 * values(11, HEADS, D)
    k = values(12, N, KV, D).astype(np.float16).astype(np.float32)
    v = values(13, N, KV, D).astype(np.float16).astype(np.float32)
    return q, k, v


def bounds(q, k):
    """Upper bounds of q . k over each page of `k (n, d)`."""
    out = []
    for start in range(0, len(k), PAGE):
        page = k[start : start + PAGE].astype(np.float64)
        out.append(np.maximum(q * page.min(0), q * page.max(0)).sum())
    return np.array(out)


def choose(u, most):
    """The last page and the largest bounds; ties to the lower page."""
    pages, last = len(u), len(u) - 1
    order = sorted(range(last), key=lambda i: (-u[i], i))
    return sorted(order[: min(most, pages) - 1] + [last])


def attend(q, k, v, pages):
    rows = [i for p in pages for i in range(p * PAGE, min((p + 1) * PAGE, len(k)))]
    scores = k[rows].astype(np.float64) @ q.astype(np.float64) / np.sqrt(D)
    e = np.exp(scores - scores.max())
    return e @ v[rows].astype(np.float64) / e.sum()


if __name__ == "__main__":
    q, k, v = inputs()
    group = HEADS // KV
    cases = []
    for budget in [8, 24, 40, 64, 200]:
        most = max(3, budget // PAGE)
        for gqa in ["per_query_head", "group_max"]:
            chosen = []
            for h in range(HEADS):
                heads = [h] if gqa == "per_query_head" else range(h // group * group, (h // group + 1) * group)
                u = np.max([bounds(q[i].astype(np.float64), k[:, h // group]) for i in heads], axis=0)
                chosen.append(choose(u, most))
            out = [attend(q[h], k[:, h // group], v[:, h // group], chosen[h]) @ (1 + np.arange(D)) for h in range(HEADS)]
            cases.append({"token_budget": budget, "gqa": gqa, "pages": chosen, "out": np.round(out, 5).tolist()})
    write("quest", {"cases": cases})
