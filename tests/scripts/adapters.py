"""Adapters across programs: PEFT's loads here, ours loads in PEFT and in llama.cpp, and all compute the same.

    python -m venv venv && venv/bin/pip install torch transformers peft safetensors gguf numpy
    venv/bin/python tests/scripts/adapters.py peft ULLAGE MODEL.gguf OUT      (writes OUT, compares with PEFT)
    python tests/scripts/adapters.py llama ULLAGE MODEL.gguf OUT              (llama-cpp-python; after the first)

`peft` makes a random LoRA with PEFT on the model as transformers reads it from the same GGUF file, saves it, has Ullage write
it as GGUF and back as PEFT's folder, and compares: numbers bit for bit, logits of PEFT with either folder against those of
Ullage with the folder, with the GGUF adapter, and merged. With --adapter DIR it takes that folder (one of a training run)
in place of a random one. `llama` compares llama.cpp with the GGUF adapter, and with the merged file, against Ullage.

Passes (exit 0) when every pair is within its limit: KL 1e-6 and the same next tokens against PEFT in f32; against
llama.cpp, whose products of quantized weights round activations, 1.25 x what it is apart without an adapter, or 1e-3.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a little robot who",
    "def fibonacci(n):\n    ",
]
TOKENS = 12


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def apart(reference, other):
    p, q = log_softmax(reference), log_softmax(other)
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    same = float((reference.argmax(-1) == other.argmax(-1)).mean())
    return {"kl_max": float(kl.max()), "top1": same, "max_abs_logit": float(np.abs(reference - other).max())}


class Verdict:
    def __init__(self):
        self.failed = False

    def say(self, name, figures, kl, top1=1.0):
        good = figures["kl_max"] <= kl and figures["top1"] >= top1
        self.failed |= not good
        numbers = ", ".join(f"{k} {v:.3g}" for k, v in figures.items())
        print(f"{'ok ' if good else 'BAD'} {name}: {numbers}", flush=True)

    def check(self, name, good):
        self.failed |= not good
        print(f"{'ok ' if good else 'BAD'} {name}", flush=True)


def ullage(program, model, out, sets, prompt):
    """Logits of the prompt's last token and of every generated one but the last, and the tokens."""
    args = [program, "run", model, "--prompt", prompt, "--dump", "--out", str(out)]
    base = {"run.max_tokens": TOKENS, "run.ignore_eos": "true", "kv.format": "f32", **sets}
    for key, value in base.items():
        args += ["--set", f"{key}={value}"]
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    report = json.loads((out / "report.json").read_text())
    logits = load_file(out / "logits.safetensors")["logits"]
    return logits.astype(np.float32), report["output"]["tokens"]


def all_prompts(program, model, work, sets):
    rows, tokens = [], []
    for prompt in PROMPTS:
        # A run wants a folder of its own.
        with tempfile.TemporaryDirectory(dir=work) as folder:
            logits, ids = ullage(program, model, Path(folder) / "run", sets, prompt)
        rows.append(logits)
        tokens.append(ids)
    return rows, tokens


def peft(args, work):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    path = Path(args.model)
    base = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**base)

    def fresh():
        return AutoModelForCausalLM.from_pretrained(**base, dtype=torch.float32).eval()

    verdict = Verdict()
    first = Path(args.adapter) if args.adapter else work / "peft"
    if not args.adapter:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        made = get_peft_model(fresh(), LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
        with torch.no_grad():
            for name, p in made.named_parameters():
                if "lora_B" in name:
                    p.normal_(0.0, 0.02)
        made.save_pretrained(first)
    gguf, second, merged = work / "adapter.gguf", work / "back", work / "merged.gguf"
    run = lambda *a: subprocess.run([args.ullage, *map(str, a)], check=True, stdout=subprocess.DEVNULL)
    run("adapter", path, first, gguf)
    run("adapter", path, gguf, second)
    run("merge", path, first, merged, "--type", "f32")
    a, b = load_file(first / "adapter_model.safetensors"), load_file(second / "adapter_model.safetensors")
    verdict.check("through GGUF and back: the same names and bits", a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a))

    sets = {"model.adapter": first.resolve()}
    rows, tokens = all_prompts(args.ullage, str(path), work, sets)

    def theirs(model):
        out = []
        for prompt, ids in zip(PROMPTS, tokens):
            start = tokenizer(prompt).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([start + ids[:-1]])).logits[0]
            out.append(logits[len(start) - 1 :].numpy())
        return np.concatenate(out)

    with_first = theirs(PeftModel.from_pretrained(fresh(), first).eval())
    with_second = theirs(PeftModel.from_pretrained(fresh(), second).eval())
    plain = theirs(fresh())
    ours = np.concatenate(rows)
    print("what the adapter changes:", apart(plain, with_first))
    verdict.say("PEFT with its folder | PEFT with ours", apart(with_first, with_second), 1e-12)
    verdict.say("PEFT | Ullage with the folder", apart(with_first, ours), 1e-6)

    def forced(model, more):
        """Another way to run the same tokens: greedy choices agree, so generating gives them again."""
        again, ids = all_prompts(args.ullage, model, work, more)
        verdict.check("  the same tokens", ids == tokens)
        return np.concatenate(again)

    verdict.say("PEFT | Ullage with the GGUF adapter", apart(with_first, forced(str(path), {"model.adapter": gguf.resolve()})), 1e-6)
    verdict.say("PEFT | Ullage with the merged file (f32)", apart(with_first, forced(str(merged), {})), 1e-6)
    np.savez(work / "ours.npz", *rows, tokens=np.array(tokens))
    return verdict


def llama(args, work):
    sys.path.insert(0, str(Path(__file__).parent))
    import ctypes

    import llama_cpp as C
    from llama import F32, Model

    verdict = Verdict()
    gguf, merged = work / "adapter.gguf", work / "merged.gguf"

    def theirs(model, tokens, adapter=None):
        out = []
        for prompt, ids in zip(PROMPTS, tokens):
            start = model.tokenize(prompt, add_special=True)
            context = model.context(len(start) + TOKENS + 8, F32)
            if adapter is not None:
                handles = (C.llama_adapter_lora_p_ctypes * 1)(adapter)
                scales = (ctypes.c_float * 1)(1.0)
                if C.llama_set_adapters_lora(context.handle, handles, 1, scales) != 0:
                    raise SystemExit("llama.cpp does not take the adapter")
            logits = context.eval(start + ids[:-1], 0, "all")
            context.close()
            out.append(logits[len(start) - 1 :])
        return np.concatenate(out)

    both = {"int8": {"run.compute": "int8"}, "exact": {}}
    model = Model(args.model)
    for name, compute in both.items():
        rows, tokens = all_prompts(args.ullage, args.model, work, compute)
        plain = apart(theirs(model, tokens), np.concatenate(rows))
        print(f"without an adapter ({name}):", plain)
        limit = max(1.25 * plain["kl_max"], 1e-3)
        rows, tokens = all_prompts(args.ullage, args.model, work, {**compute, "model.adapter": gguf.resolve()})
        adapter = C.llama_adapter_lora_init(model.handle, str(gguf).encode())
        if not adapter:
            raise SystemExit(f"llama.cpp cannot load {gguf}")
        verdict.say(f"llama.cpp with the GGUF adapter | Ullage ({name})", apart(theirs(model, tokens, adapter), np.concatenate(rows)), limit, 0.9)
    model.close()
    model = Model(str(merged))
    rows, tokens = all_prompts(args.ullage, str(merged), work, {})
    verdict.say("llama.cpp with the merged file (f32) | Ullage", apart(theirs(model, tokens), np.concatenate(rows)), 1e-4)
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("against", choices=["peft", "llama"])
    parser.add_argument("ullage", help="the program")
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("out", help="a folder to work in")
    parser.add_argument("--adapter", help="a folder of PEFT's layout to take in place of a random one")
    args = parser.parse_args()
    args.ullage = os.path.abspath(args.ullage)
    work = Path(args.out)
    work.mkdir(parents=True, exist_ok=True)
    verdict = (peft if args.against == "peft" else llama)(args, work)
    sys.exit(int(verdict.failed))


if __name__ == "__main__":
    main()
