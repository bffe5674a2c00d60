"""Inputs of the cache techniques' references, by an integer formula that the tests repeat exactly (tests/src/kv.rs)."""

import json
import os

import numpy as np


def values(seed, *shape):
    """Numbers in [-1, 1), exact in float32."""
    n = int(np.prod(shape))
    z = (np.arange(n, dtype=np.uint64) * 2654435761 + seed * 40503 + 12345) % 2**32
    for _ in range(2):
        z ^= z >> np.uint64(16)
        z = z * 0x45D9F3B % 2**32
    z ^= z >> np.uint64(16)
    return ((z >> np.uint64(8)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def attention(q, k, first):
    """Causal softmax of queries `q (m, heads, d)`, the first of them at position `first`, on keys `k (n, kv_heads, d)`."""
    m, heads, d = q.shape
    n, kv_heads, _ = k.shape
    group = heads // kv_heads
    out = np.zeros((heads, m, n))
    for h in range(heads):
        scores = q[:, h].astype(np.float64) @ k[:, h // group].astype(np.float64).T / np.sqrt(d)
        for i in range(m):
            seen = first + i + 1
            e = np.exp(scores[i, :seen] - scores[i, :seen].max())
            out[h, i, :seen] = e / e.sum()
    return out


def best(scores, count):
    """Indices of the `count` largest, ties to the lower index, ascending."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    return sorted(int(i) for i in order[:count])


def write(name, data):
    path = os.path.join(os.path.dirname(__file__), "..", "fixtures", "kv", name + ".json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(data, f, separators=(",", ":"))
        f.write("\n")
