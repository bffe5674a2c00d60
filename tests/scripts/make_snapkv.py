"""SnapKV (arXiv 2404.14469) in NumPy: which rows of a prompt each KV head keeps. Writes ../fixtures/kv/snapkv.json.

Scores of the observation window are summed over its queries for each query head, pooled along the rows, and put together over
the heads of a group; the best rows before the window stay, with the window.
"""

import numpy as np
from kv_inputs import attention, best, values, write

N, HEADS, KV, D, W = 60, 6, 2, 32, 8


def window_sums():
    q, k = 4 * values(1, N, HEADS, D), values(2, N, KV, D)
    return attention(q, k, 0)[:, N - W :].sum(axis=1)


def pooled(row, kernel, pooling):
    """Stride 1; averages pad with zeros and divide by the kernel, maxima pad with nothing."""
    half = kernel // 2
    if pooling == "avgpool":
        padded = np.pad(row, half)
        return np.array([padded[i : i + kernel].sum() / kernel for i in range(len(row))])
    return np.array([row[max(0, i - half) : i + half + 1].max() for i in range(len(row))])


def ranks(sums, kernel, pooling, agg):
    group = HEADS // KV
    prefix = sums[:, : N - W]
    each = np.stack([pooled(row, kernel, pooling) for row in prefix]).reshape(KV, group, -1)
    return {"mean": each.mean, "max": each.max, "sum": each.sum}[agg](axis=1)


if __name__ == "__main__":
    sums = window_sums()
    cases = []
    for kernel, pooling, agg, capacity in [
        (1, "avgpool", "mean", 20),
        (5, "avgpool", "mean", 20),
        (7, "maxpool", "mean", 24),
        (5, "maxpool", "max", 12),
        (3, "avgpool", "sum", 30),
    ]:
        r = ranks(sums, kernel, pooling, agg)
        kept = [best(row, capacity - W) + list(range(N - W, N)) for row in r]
        cases.append({"kernel_size": kernel, "pooling": pooling, "gqa_agg": agg, "capacity": capacity, "kept": kept})
    write("snapkv", {"sums": np.round(sums, 7).tolist(), "cases": cases})
