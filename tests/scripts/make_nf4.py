"""NF4 with double quantization as the paper defines it, in PyTorch, for the tests of weights.format = nf4.

Writes ../fixtures/weights/nf4.json. QLoRA (arXiv 2305.14314): the 16 levels from the quantiles of a normal distribution
(Appendix E), blocks of the flattened matrix with one absolute maximum each, and the second quantization of those maxima to
8-bit floats in blocks of 256 around their mean (section 3, "Double Quantization"). The 8-bit floats are the signed dynamic
map of arXiv 2110.02861, section 2. Weights follow a formula of whole numbers that the test repeats, so that both sides
start from the same bits. Needs torch: pip install torch
"""

import json
import math
import os

import torch


# Appendix E of the paper, in f32.
PRINTED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def levels():
    """The printed levels, once they are seen to be what the definition gives."""
    printed = torch.tensor(PRINTED, dtype=torch.float64)
    assert (defined() - printed).abs().max() < 5e-7
    return printed.to(torch.float32)


def defined():
    """16 levels: the quantiles of N(0, 1), 8 on the positive side and 7 on the negative one, zero, scaled to ±1."""
    offset = 0.5 * ((1 - 1 / (2 * 15)) + (1 - 1 / (2 * 16)))
    ppf = lambda p: torch.special.ndtri(torch.as_tensor(p, dtype=torch.float64))
    positive = ppf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -ppf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    all_levels = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]).sort().values
    return all_levels / all_levels.abs().max()


def dynamic_map():
    """256 numbers: a sign, a decimal exponent of up to 7 places in unary, and as much of a fraction as bits remain."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6)
        values += means.tolist() + (-means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float64).to(torch.float32)


def weights(rows, cols, seed):
    """About normal, exact in f32: the sum of four hashed bytes, less in some rows than in others."""
    i = torch.arange(rows * cols, dtype=torch.int64) + seed
    x = (i * 2654435761 + 97) % (1 << 32)
    x = (x ^ (x >> 15)) * 2246822519 % (1 << 32)
    x = x ^ (x >> 13)
    total = sum(((x >> (8 * k)) & 255) - 128 for k in range(4))
    scale = 1 + (torch.arange(rows * cols) // cols) % 5
    return (total.to(torch.float64) * scale / 8192).to(torch.float32).reshape(rows, cols)


def nearest(x, table):
    middles = (table[1:].double() + table[:-1].double()) / 2
    return torch.bucketize(x.double(), middles)


def encode(w, block, double):
    blocks = w.reshape(-1, block)
    absmax = blocks.abs().amax(1)
    codes = nearest(blocks / absmax.clamp_min(1e-38)[:, None], levels())
    if not double:
        return codes, absmax, None
    mean = absmax.double().mean().to(torch.float32)
    centred = absmax - mean
    n = math.ceil(len(centred) / 256)
    padded = torch.nn.functional.pad(centred, (0, 256 * n - len(centred))).reshape(n, 256)
    second = padded.abs().amax(1)
    quantized = nearest(padded / second.clamp_min(1e-38)[:, None], dynamic_map())
    restored = (dynamic_map()[quantized] * second[:, None]).reshape(-1)[: len(centred)] + mean
    return codes, restored, (quantized.reshape(-1)[: len(centred)], second, mean)


def case(rows, cols, block, double, seed):
    w = weights(rows, cols, seed)
    codes, scales, second = encode(w, block, double)
    decoded = (levels()[codes] * scales[:, None]).reshape(-1)
    flat = codes.reshape(-1)
    out = {
        "rows": rows, "cols": cols, "block_size": block, "double_quant": double, "seed": seed,
        "codes_sum": int((flat * (1 + torch.arange(len(flat)) % 251)).sum()),
        "codes": flat[:96].tolist(),
        "decoded_norm": decoded.double().norm().item(),
        "decoded": [float(f"{v:.9g}") for v in decoded[:: max(1, len(decoded) // 40)].tolist()],
        "error": (decoded.double() - w.reshape(-1).double()).norm().item(),
    }
    if double:
        quantized, second_scales, mean = second
        out["scale_codes_sum"] = int((quantized * (1 + torch.arange(len(quantized)) % 251)).sum())
        out["scale_codes"] = quantized[:64].tolist()
        out["second"] = [float(f"{v:.9g}") for v in second_scales.tolist()]
        out["mean"] = float(f"{mean.item():.9g}")
    return out


folder = os.path.join(os.path.dirname(__file__), "../fixtures/weights")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "nf4.json"), "w") as f:
    cases = [case(130, 192, 64, True, 5), case(33, 128, 64, False, 900), case(70, 160, 32, True, 77), case(3, 64, 64, True, 1)]
    shown = dynamic_map()
    json.dump({
        "levels": [float(f"{v:.9g}") for v in levels().tolist()],
        "map": [float(f"{v:.9g}") for v in shown.tolist()],
        "cases": cases,
    }, f)
    f.write("\n")
