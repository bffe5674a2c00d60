"""Ada-KV (arXiv 2407.11550) in NumPy over SnapKV's ranks: how many rows each KV head keeps, and which. Writes
../fixtures/kv/adakv.json.

Every head first gets its floor; the rest of the layer's rows go to the largest of all heads' remaining ranks together, so that
the shares add up exactly (kv.md 2.7, as kvpress's safeguard does it).
"""

import numpy as np
from kv_inputs import best, write
from make_snapkv import KV, N, W, ranks, window_sums


def shares(r, base, floor):
    least = int(base * floor)
    heads, n = r.shape
    taken = [best(row, least) for row in r]
    rest = [(-r[h, j], h, j) for h in range(heads) for j in range(n) if j not in taken[h]]
    rest.sort()
    counts = [least] * heads
    for _, h, _ in rest[: base * heads - least * heads]:
        counts[h] += 1
    return counts


if __name__ == "__main__":
    sums = window_sums()
    # The heads differ in how concentrated they are: one is sharpened.
    sums[:3] = sums[:3] ** 3 * 4
    cases = []
    for floor, capacity, normalize in [(0.2, 20, False), (0.0, 24, False), (0.5, 20, False), (1.0, 20, False), (0.2, 20, True)]:
        r = ranks(sums, 7, "maxpool", "mean")
        if normalize:
            r = r / r.sum(axis=1, keepdims=True)
        counts = shares(r, capacity - W, floor)
        kept = [best(row, c) + list(range(N - W, N)) for row, c in zip(r, counts)]
        cases.append({"floor_alpha": floor, "capacity": capacity, "normalize": normalize, "shares": counts, "kept": kept})
    assert KV == 2
    write("adakv", {"sums": np.asarray(sums).tolist(), "cases": cases})
