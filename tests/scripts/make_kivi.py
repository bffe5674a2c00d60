"""KIVI (arXiv 2402.02750) in NumPy: keys quantized per channel in groups of tokens, values per token in groups of channels,
the newest rows in f16. Writes ../fixtures/kv/kivi.json.

Asymmetric: q = rint((x - min) / scale), scale and minimum in f16; all arithmetic in float32. A row of sums stands for each
decoded row, and one group and one row stand whole.
"""

import numpy as np
from kv_inputs import values, write

D = 32


def quantized(x, bits):
    """One group along the last axis."""
    x = x.astype(np.float32)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    most = np.float32(2**bits - 1)
    scale = ((high - low) / most).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    safe = np.where(scale == 0, np.float32(1), scale)
    codes = np.clip(np.rint((x - low) / safe), 0, most).astype(np.float32)
    return np.where(scale == 0, low, codes * scale + low).astype(np.float32)


def keys(k, sealed, group, bits):
    out = k.copy()
    for start in range(0, sealed, group):
        out[start : start + group] = quantized(k[start : start + group].T, bits).T
    return out


def vals(v, sealed, group, bits):
    out = v.copy()
    for i in range(sealed):
        for c in range(0, D, group):
            out[i, c : c + group] = quantized(v[i, c : c + group], bits)
    return out


def lengths(prompt, decoded, residual):
    """Sealed keys and values after the prompt and after each decoded token, as the released code does it."""
    k, v = prompt - prompt % residual, max(prompt - residual, 0)
    out = [[k, v]]
    for n in range(prompt + 1, prompt + decoded + 1):
        if n - k == residual:
            k = n
        if n - v > residual:
            v += 1
        out.append([k, v])
    return out


if __name__ == "__main__":
    cases = []
    for prompt, decoded, bits, group, residual in [(77, 70, 2, 32, 32), (40, 30, 4, 32, 64), (130, 5, 2, 16, 64)]:
        n = prompt + decoded
        raw = [values(20 + h, n, D).astype(np.float16).astype(np.float32) for h in range(2)]
        # One outlier channel of the keys.
        raw[0][:, 5] *= 8
        sealed = lengths(prompt, decoded, residual)
        k = keys(raw[0], sealed[-1][0], group, bits)
        v = vals(raw[1], sealed[-1][1], group, bits)
        channels = 1 + np.arange(D)
        cases.append(
            {
                "prompt": prompt,
                "decoded": decoded,
                "bits": bits,
                "group_size": group,
                "residual_length": residual,
                "sealed": sealed,
                "keys": np.round((k.astype(np.float64) * channels).sum(1), 3).tolist(),
                "values": np.round((v.astype(np.float64) * channels).sum(1), 3).tolist(),
                "key": [float(x) for x in k[3]],
                "value": [float(x) for x in v[3]],
            }
        )
    write("kivi", {"cases": cases})
