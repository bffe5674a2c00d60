"""Trains and examines the bundled model `recall`. Seeded; text from data.py only.

    python train.py --out OUT                                 as the shipped weights were made
    python train.py --exam OUT/recall.safetensors --out OUT   examination only

The model is a Llama: RMS norms, grouped queries, rotary embedding over neighbouring pairs (2i, 2i+1),
SwiGLU, tied embedding. Writes recall.safetensors (f16), tokenizer.json (merges), train.log, eval.json.
"""

import argparse
import collections
import json
import math
import multiprocessing as mp
import os
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import data

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Config:
    """Every width is a multiple of 256, so that every ggml block type fits every matrix."""

    vocab: int = data.VOCAB
    hidden: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    ff: int = 256
    context: int = 4096
    rope_base: float = 10000.0
    norm_eps: float = 1e-5


# Steps, row length, rows a step. Short rows first: induction forms on them fastest.
STAGES = [(1400, 256, 256), (1800, 1024, 128), (1100, 2048, 64), (1000, 4096, 32)]
LR, LR_END, WARMUP_STEPS, DECAY_FROM, WEIGHT_DECAY = 2e-3, 5e-5, 150, 0.60, 0.05


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def rotate(x, cos, sin):
    """x: (batch, heads, tokens, head_dim); cos, sin: (tokens, head_dim / 2)."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.attn_norm, self.ffn_norm = RmsNorm(c.hidden, c.norm_eps), RmsNorm(c.hidden, c.norm_eps)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = linear(c.hidden, q), linear(c.hidden, kv), linear(c.hidden, kv), linear(q, c.hidden)
        self.ffn_gate, self.ffn_up, self.ffn_down = linear(c.hidden, c.ff), linear(c.hidden, c.ff), linear(c.ff, c.hidden)

    def forward(self, x, cos, sin, mask=None):
        b, t, _ = x.shape
        h = self.attn_norm(x)
        split = lambda y: y.view(b, t, -1, self.c.head_dim).transpose(1, 2)
        q, k, v = rotate(split(self.attn_q(h)), cos, sin), rotate(split(self.attn_k(h)), cos, sin), split(self.attn_v(h))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        x = x + self.attn_output(o.transpose(1, 2).reshape(b, t, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Recall(nn.Module):
    def __init__(self, c, compiled=False):
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.vocab, c.hidden)
        self.blk = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.output_norm = RmsNorm(c.hidden, c.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.layers) if "output" in name or "down" in name else 0.02)
        freq = c.rope_base ** (-torch.arange(0, c.head_dim, 2).double() / c.head_dim)
        angle = torch.outer(torch.arange(c.context + 64).double(), freq)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.run_layer = torch.compile(Layer.forward, dynamic=False) if compiled else Layer.forward

    def forward(self, ids, mask=None):
        """ids (batch, tokens) to the final hidden rows (batch, tokens, hidden)."""
        x = self.token_embd(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.bfloat16()
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.blk:
            x = self.run_layer(layer, x, cos, sin, mask)
        return self.output_norm(x)

    def logits(self, rows):
        return F.linear(rows, self.token_embd.weight)


# --- training ------------------------------------------------------------------------------------


def rate(step, steps):
    """Warm-up, then constant, then a straight line down from DECAY_FROM of the run."""
    left = min(1.0, (1 - step / steps) / (1 - DECAY_FROM))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LR_END + (LR - LR_END) * left)


def worker_start(merges):
    data.load_tokenizer(merges)


def train(model, args, log, pool):
    device = args.device
    model.train()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-9, fused=device == "cuda")
    plan = [(n // args.shrink, max(1, rows // args.shrink)) for steps, n, rows in STAGES for _ in range(max(1, round(steps * args.scale)))]
    queue, asked, start = collections.deque(), 0, time.time()
    seen, said, saved = 0, 0.0, start

    for step, (n, _) in enumerate(plan):
        while asked < len(plan) and len(queue) < 4 * args.workers:
            queue.append(pool.apply_async(data.batch, (args.seed, asked, plan[asked][1], plan[asked][0])))
            asked += 1
        ids, w = (torch.from_numpy(x).to(device) for x in queue.popleft().get())
        ids, w = ids.long(), w.float()
        for g in opt.param_groups:
            g["lr"] = rate(step, len(plan))
        with torch.autocast(device, torch.bfloat16):
            logits = model.logits(model(ids[:, :-1]))
        loss_at = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        w = w[:, 1:].flatten()
        loss = (loss_at * w).sum() / w.sum().clamp(min=1)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        seen += ids.numel()
        now = time.time()
        if now - said > args.say:
            said, answers = now, w == 1
            right = (logits.flatten(0, 1).argmax(-1) == ids[:, 1:].flatten())[answers].float().mean()
            log(f"step {step} n {n} loss {loss.item():.4f} answers {loss_at[answers].mean().item():.4f} "
                f"right {right.item():.3f} ready {sum(q.ready() for q in queue)} tok/s {seen / (now - start):.0f} s {now - start:.0f}")
        if now - saved > args.save_every:
            saved = now
            save(model, args.out)
    save(model, args.out)
    result = {"steps": len(plan), "tokens": seen, "seconds": round(time.time() - start)}
    log(f"trained: {result}")
    return result


def save(model, out):
    save_file({k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}, f"{out}/recall.safetensors")


# --- examination -----------------------------------------------------------------------------------


def round_q8_0(model):
    """The weights as a q8_0 file holds them: blocks of 32, scale max|x| / 127 in f16. Norms stay."""
    for p in model.parameters():
        if p.dim() == 2:
            x = p.data.view(-1, 32)
            d = x.abs().amax(1, keepdim=True) / 127
            q = torch.where(d > 0, x / d, 0).round()
            p.data = (q * d.half().float()).view_as(p)


@torch.no_grad()
def right(model, exams, window=None):
    """Share of exams answered exactly, and of single answer ids. `window`: each row sees that many last tokens only."""
    device, exact, single, total = model.cos.device, 0, 0, 0
    longest = max(len(ids) for ids, _ in exams)
    rows = max(1, (1 << 17) // longest if device.type == "cuda" else 2048 // longest)
    for lo in range(0, len(exams), rows):
        part = exams[lo:lo + rows]
        t = max(len(ids) for ids, _ in part)
        ids = torch.tensor([i + [data.PAD] * (t - len(i)) for i, _ in part], device=device)
        mask = None
        if window:
            at = torch.arange(t, device=device)
            mask = (at[:, None] >= at) & (at[:, None] - at < window)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            best = model.logits(model(ids, mask)).argmax(-1)
        for row_best, (i, where) in zip(best.cpu().tolist(), part):
            hits = [row_best[x - 1] == i[x] for x in where]
            exact, single, total = exact + all(hits), single + sum(hits), total + len(hits)
    return exact / len(exams), single / total


def examine(model, log, pool, count, lengths):
    """Recall by task, length and depth, with the full cache and with the last 256 tokens only."""
    model.eval()
    model.run_layer = Layer.forward
    cells = [("passkey", n, d, 0) for n in lengths for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    cells += [(t, n, d, 0) for t in ("needle", "babble") for n in lengths for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    cells += [("codes", n, 0.0, k) for n in lengths for k in (8, 16, 32) if k * 26 < n] + [("copy", n, 0.0, 0) for n in lengths]
    asked = [pool.starmap_async(data.exam, [(t, n, d, i, k) for i in range(count)]) for t, n, d, k in cells]
    table = []
    for (task, n, d, k), wait in zip(cells, asked):
        exams = wait.get()
        full, window = right(model, exams), right(model, exams, 256)
        table.append({"task": task, "tokens": n, "depth": d, "lines": k, "exams": count,
                      "exact": full[0], "ids": round(full[1], 4), "exact_window_256": window[0], "ids_window_256": round(window[1], 4)})
        log("exam " + " ".join(f"{key} {v}" for key, v in table[-1].items()))
    return table


@torch.no_grad()
def write(model, prompt, length, temperature=0.0, seed=1):
    """Continues a prompt; plain and slow (no cache)."""
    g = torch.Generator().manual_seed(seed)
    model.run_layer = Layer.forward  # every step has a new length: nothing to compile for
    ids = [data.BOS] + data.encode_marked(prompt)
    for _ in range(length):
        last = model.logits(model(torch.tensor([ids], device=model.cos.device))[:, -1]).float().cpu()[0]
        ids.append(int(torch.multinomial((last / temperature).softmax(-1), 1, generator=g)) if temperature else int(last.argmax()))
        if ids[-1] == data.EOS:
            break
    return data.decode(ids[1:])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", default="out")
    a.add_argument("--seed", type=int, default=20)
    a.add_argument("--init", help="weights to start from")
    a.add_argument("--scale", type=float, default=1.0, help="times the steps of every stage")
    a.add_argument("--exam", help="weights to examine; no training")
    a.add_argument("--exams", type=int, default=50, help="a cell")
    a.add_argument("--lengths", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096])
    a.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    a.add_argument("--shrink", type=int, default=1, help="divide row length and rows, to try the script on a CPU")
    a.add_argument("--say", type=float, default=5, help="seconds between log lines")
    a.add_argument("--save-every", type=float, default=60)
    a.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = a.parse_args()
    os.makedirs(args.out, exist_ok=True)
    logfile = open(f"{args.out}/train.log", "a")

    def log(line):
        print(line, flush=True)
        print(line, file=logfile, flush=True)

    merges = f"{HERE}/merges.json"
    data.load_tokenizer(merges)
    pool = mp.get_context("fork").Pool(args.workers, worker_start, (merges,))
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    c = Config()
    model = Recall(c, compiled=args.device == "cuda").to(args.device)
    if args.exam or args.init:
        model.load_state_dict({k: v.float() for k, v in load_file(args.exam or args.init).items()})
    result = {"config": asdict(c), "parameters": sum(p.numel() for p in model.parameters()), "seed": args.seed, "stages": STAGES}
    log(json.dumps(result))
    if not args.exam:
        result["training"] = train(model, args, log, pool)
    round_q8_0(model)
    start = time.time()
    result["exam"] = {"weights": "q8_0", "arithmetic": "bf16" if args.device == "cuda" else "f32", "recall": examine(model, log, pool, args.exams, args.lengths)}
    log(f"examined in {time.time() - start:.0f} s")
    result["samples"] = [write(model, "Once upon a time", 220), write(model, "Once upon a time", 220, 0.8)]
    result["samples"] += [write(model, "The weather today is", 100, 0.8)]
    result["samples"] += [write(model, "<|user|>\nTell me a story about a fox.<|endoftext|>\n<|assistant|>\n", 220)]
    for s in result["samples"]:
        log(s)
    json.dump(result, open(f"{args.out}/eval.json", "w"), indent=1)
    pool.terminate()


if __name__ == "__main__":
    main()
