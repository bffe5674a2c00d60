"""Three steps of MeZO on the small llama of make_train.py, in float64: fixtures/train/mezo.json.

The perturbation is Philox-4x32-10 and Box-Muller as the engine defines them, written anew here. Needs torch and numpy."""

import numpy as np
import torch

from gradients import write
from make_train import loss_of, parameters, some

torch.set_default_dtype(torch.float64)
EPS, LR, SEED, STREAM = 1e-2, 1e-3, 0, 3 << 60


def philox(seed, stream, blocks):
    """The four words of each block, (len(blocks), 4)."""
    blocks = np.asarray(blocks, dtype=np.uint64)
    word = np.uint64(0xFFFFFFFF)
    c = [blocks & word, blocks >> np.uint64(32)]
    c += [np.full_like(blocks, stream & 0xFFFFFFFF), np.full_like(blocks, stream >> 32)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for turn in range(10):
        if turn:
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & word,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & word,
        ]
    return np.stack(c, -1)


def normals(seed, stream, n):
    words = philox(seed, stream, np.arange((n + 3) // 4))
    bits = (words >> np.uint64(8)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((bits[:, 0::2] + 1) / 2**24))
    angle = 2 * np.pi * bits[:, 1::2] / 2**24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1)[:n]


def main():
    p = parameters(False)
    projected, losses = [], []
    with torch.no_grad():
        for step in range(1, 4):
            z = {
                name: torch.from_numpy(normals(SEED, STREAM | step << 24 | i, t.numel())).reshape(t.shape)
                for i, (name, t) in enumerate(p.items())
            }

            def move(by):
                for name, t in p.items():
                    t.add_(z[name], alpha=by)

            move(EPS)
            plus = loss_of(p, step).item()
            move(-2 * EPS)
            minus = loss_of(p, step).item()
            move(EPS)
            g = (plus - minus) / (2 * EPS)
            for name, t in p.items():
                t.add_(g * z[name] + 0.1 * t, alpha=-LR)
            projected.append(g)
            losses.append((plus + minus) / 2)
    first = [float(f"{v:.9g}") for v in normals(7, 9, 11)]
    write("mezo.json", {"normals": first, "projected": projected, "losses": losses,
                        "weights": {name: some(t) for name, t in p.items()}})


if __name__ == "__main__":
    main()
