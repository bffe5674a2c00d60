"""Reference losses, gradients and weights of a small llama in PyTorch, float64, for the training engine's test.

Writes ../fixtures/train/reference.json: with and without biases on q, k and v, five steps of AdamW with clipping by the
global norm. Its ε is large, as with a small one the first step of an element is the sign of its gradient, which
rounding decides where the gradient is nearly zero. Weights and tokens follow formulas that the test repeats. Needs torch: pip install torch
"""

import json
import math
import os

import torch

torch.set_default_dtype(torch.float64)
HIDDEN, FF, VOCAB, HEADS, KV, DIM, LAYERS, LENGTH, ROWS = 64, 96, 77, 4, 2, 16, 3, 20, 3
KEEP = 24


def formula(k, shape, norm):
    n = math.prod(shape)
    wave = torch.sin(0.7 * torch.arange(n, dtype=torch.float64) + 1.3 * k)
    values = 1 + 0.1 * wave if norm else 0.12 * wave
    return values.to(torch.float32).to(torch.float64).reshape(shape).requires_grad_()


def parameters(bias):
    names = [("token_embd.weight", (VOCAB, HIDDEN), False)]
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        names.append((at + "attn_norm.weight", (HIDDEN,), True))
        for name, rows in [("attn_q", HEADS * DIM), ("attn_k", KV * DIM), ("attn_v", KV * DIM)]:
            names.append((at + name + ".weight", (rows, HIDDEN), False))
            if bias:
                names.append((at + name + ".bias", (rows,), False))
        names.append((at + "attn_output.weight", (HIDDEN, HEADS * DIM), False))
        names.append((at + "ffn_norm.weight", (HIDDEN,), True))
        names.append((at + "ffn_gate.weight", (FF, HIDDEN), False))
        names.append((at + "ffn_up.weight", (FF, HIDDEN), False))
        names.append((at + "ffn_down.weight", (HIDDEN, FF), False))
    names.append(("output_norm.weight", (HIDDEN,), True))
    return {name: formula(k, shape, norm) for k, (name, shape, norm) in enumerate(names)}


def batch(step):
    n = ROWS * LENGTH
    tokens = [(i * i * 7 + 3 * i + 11 * step) % VOCAB for i in range(n)]
    targets = [-100 if i % LENGTH == LENGTH - 1 or i % 7 == 3 else tokens[i + 1] for i in range(n)]
    starts = [0 if i % LENGTH < 5 else 5 if i % LENGTH < 11 else 11 for i in range(n)]
    return (torch.tensor(v).reshape(ROWS, LENGTH) for v in (tokens, targets, starts))


def norm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w


def turn(x, positions):
    angles = positions[..., None] * (10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM))
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def loss_of(p, step):
    tokens, targets, starts = batch(step)
    at = torch.arange(LENGTH)
    positions = at - starts
    seen = (at[None, :, None] >= at[None, None, :]) & (at[None, None, :] >= starts[:, :, None])
    x = p["token_embd.weight"][tokens]
    for layer in range(LAYERS):
        w = lambda name: p[f"blk.{layer}.{name}.weight"]
        n = norm(x, w("attn_norm"))

        def linear(name, heads):
            y = n @ w(name).T
            if f"blk.{layer}.{name}.bias" in p:
                y = y + p[f"blk.{layer}.{name}.bias"]
            return y.reshape(ROWS, LENGTH, heads, DIM)

        q, k, v = linear("attn_q", HEADS), linear("attn_k", KV), linear("attn_v", KV)
        q, k = turn(q, positions), turn(k, positions)
        k, v = (t.repeat_interleave(HEADS // KV, 2) for t in (k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(DIM)
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
        o = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(ROWS, LENGTH, -1)
        x = x + o @ w("attn_output").T
        n = norm(x, w("ffn_norm"))
        x = x + (torch.nn.functional.silu(n @ w("ffn_gate").T) * (n @ w("ffn_up").T)) @ w("ffn_down").T
    logits = norm(x, p["output_norm.weight"]) @ p["token_embd.weight"].T
    return torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-100)


def some(t):
    flat = t.detach().reshape(-1)
    every = max(1, len(flat) // KEEP)
    return {"norm": flat.norm().item(), "some": [float(f"{v:.9g}") for v in flat[::every].tolist()]}


def run(bias):
    p = parameters(bias)
    adamw = torch.optim.AdamW(p.values(), lr=0.002, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)
    losses, norms, gradients = [], [], None
    for step in range(1, 6):
        adamw.zero_grad()
        loss = loss_of(p, step)
        loss.backward()
        if step == 1:
            gradients = {name: some(t.grad) for name, t in p.items()}
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), 0.5).item())
        adamw.step()
    return {"losses": losses, "norms": norms, "gradients": gradients, "weights": {n: some(t) for n, t in p.items()}}


if __name__ == "__main__":
    folder = os.path.join(os.path.dirname(__file__), "../fixtures/train")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "reference.json"), "w") as f:
        json.dump({"torch": torch.__version__, "plain": run(False), "bias": run(True)}, f)
        f.write("\n")
