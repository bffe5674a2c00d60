"""Holds our logits against llama.cpp's on one text, over full distributions, in one run.

    ullage run CONFIG.toml --dump --out DIR            (prompt: the text of tests/fixtures/parity/smollm2.json)
    python tests/scripts/parity.py MODEL.gguf DIR/logits.safetensors [--cache f32|f16] [--tensor logits] [--json]

The safetensors file holds f32 `logits`, (positions, vocab), of the text from its first token on; fewer positions than the text has are
compared as far as they go. With an ullage binary in place of the file it is run first, as `ULLAGE run CONFIG --dump --out DIR`:

    python tests/scripts/parity.py MODEL.gguf path/to/ullage --config CONFIG.toml

Passes (exit 0) when KL(llama.cpp || ours) and the share of equal next tokens are within the limits: on a quantized file, 1.25 x llama.cpp's
own prefill-against-decode KL and its own share minus one point; with --max-kl, that KL and 100 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from llama import F16, F32, Model, decode, kl, prefill, top1

FIXTURE = Path(__file__).parent.parent / "fixtures" / "parity" / "smollm2.json"


def ours(args):
    path = Path(args.ours)
    if path.suffix != ".safetensors":
        if not args.config:
            raise SystemExit("--config is needed to run a binary")
        folder = tempfile.mkdtemp(prefix="ullage-parity-")
        subprocess.run([path, "run", args.config, "--dump", "--out", folder], check=True)
        found = sorted(p for p in Path(folder).rglob("*.safetensors") if args.tensor in load_file(p))
        if not found:
            raise SystemExit(f"no tensor `{args.tensor}` in {folder}")
        path = found[0]
    logits = load_file(path)[args.tensor].astype(np.float32)
    return logits.reshape(-1, logits.shape[-1])


def row(name, reference, other):
    d = kl(reference, other)
    return {
        "pair": name,
        "positions": len(d),
        "kl_mean": float(d.mean()),
        "kl_p50": float(np.quantile(d, 0.5)),
        "kl_p99": float(np.quantile(d, 0.99)),
        "kl_max": float(d.max()),
        "top1": top1(reference, other),
        "max_abs_logit": float(np.abs(reference - other).max()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ours", help="a safetensors file, or the ullage binary")
    parser.add_argument("--config", help="for the binary")
    parser.add_argument("--tensor", default="logits")
    parser.add_argument("--cache", choices=["f32", "f16"], default="f16", help="llama.cpp's KV cache")
    parser.add_argument("--text", help="a text file in place of the fixture's text")
    parser.add_argument("--max-kl", type=float, help="the KL allowed, in place of 1.25 x llama.cpp's own")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    mine = ours(args)
    model = Model(args.model)
    if args.text:
        tokens = model.tokenize(Path(args.text).read_text(encoding="utf-8"), add_special=True)
    else:
        tokens = json.loads(FIXTURE.read_text())["tokens"]
    if mine.shape[1] != model.n_vocab:
        raise SystemExit(f"{mine.shape[1]} logits a position; the model has {model.n_vocab} tokens")
    n = min(len(tokens), len(mine))
    if n == 0:
        raise SystemExit("no positions")
    cache = F32 if args.cache == "f32" else F16
    once, stepped = prefill(model, tokens[:n], cache), decode(model, tokens[:n], cache)
    mine = mine[:n]
    rows = [
        row("llama.cpp prefill | its decode", once, stepped),
        row("llama.cpp prefill | ours", once, mine),
        row("llama.cpp decode | ours", stepped, mine),
    ]
    own, got = rows[0], rows[1]
    allowed = args.max_kl if args.max_kl is not None else 1.25 * own["kl_mean"]
    least = 1.0 if args.max_kl is not None else own["top1"] - 0.01
    passed = got["kl_mean"] <= allowed and got["top1"] >= least
    if args.json:
        print(json.dumps({"rows": rows, "allowed_kl": allowed, "least_top1": least, "passed": passed}, indent=1))
    else:
        print(f"{'pair':32} {'n':>4} {'mean KL':>10} {'p50':>10} {'p99':>10} {'max':>10} {'top-1':>8} {'max |d|':>9}")
        for r in rows:
            print(
                f"{r['pair']:32} {r['positions']:4} {r['kl_mean']:10.3e} {r['kl_p50']:10.3e} {r['kl_p99']:10.3e} "
                f"{r['kl_max']:10.3e} {r['top1']:8.2%} {r['max_abs_logit']:9.2e}"
            )
        print(f"{'passed' if passed else 'FAILED'}: KL {got['kl_mean']:.3e} (allowed {allowed:.3e}), top-1 {got['top1']:.2%} (least {least:.2%})")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
