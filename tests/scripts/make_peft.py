"""Adapters in PEFT's every manner, for the tests of reading them.

    python tests/scripts/make_peft.py           (pip install torch transformers peft safetensors)

Writes ../fixtures/adapters/peft/: a folder each, as PEFT saves it, and logits.json with the logits of PEFT over the tiny llama of
fixtures/arch. Factors are random numbers that f32 has; all but the two that change the base are computed in float64.
"""

import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../fixtures/adapters/peft")
BASE = os.path.join(HERE, "../fixtures/arch/llama")
TOKENS = [(i * i * 5 + 3 * i + 1) % 48 for i in range(20)]
POSITIONS = [0, 1, 10, 19]
Q0 = "model.layers.0.self_attn.q_proj"
SOME = ["q_proj", "v_proj", "down_proj"]

VARIANTS = {
    "general-first": dict(target_modules=SOME, alpha_pattern={"q_proj": 32, Q0: 1}, rank_pattern={"v_proj": 2, "layers.1.self_attn.v_proj": 5}),
    "special-first": dict(target_modules=SOME, alpha_pattern={Q0: 1, "q_proj": 32}, rank_pattern={"layers.1.self_attn.v_proj": 5, "v_proj": 2}),
    "expressions": dict(target_modules=SOME, rank_pattern={r"layers\.0\..*_proj": 1, ".*": 2}, alpha_pattern={"(q|v)_proj": 3, r"(?!.*q_proj).*\.mlp\..*": 20}),
    "rslora": dict(target_modules=SOME, use_rslora=True, rank_pattern={"q_proj": 6}, alpha_pattern={"down_proj": 5}),
    "one-layer": dict(target_modules=SOME, layers_to_transform=[1], layers_pattern="layers"),
    "expression-targets": dict(target_modules=r".*\.layers\.0\..*(k_proj|up_proj)"),
    "all-linear": dict(target_modules="all-linear", exclude_modules=["o_proj", "gate_proj"], r=1),
    "conv-flags": dict(target_modules=["o_proj"], fan_in_fan_out=True, bias="all", init_lora_weights="gaussian"),
    "saved": dict(target_modules=["q_proj"], modules_to_save=["lm_head", "input_layernorm", "layers.1.self_attn.k_proj"]),
    "pissa": dict(target_modules=SOME, init_lora_weights="pissa"),
    "olora": dict(target_modules=SOME, init_lora_weights="olora", use_rslora=True),
}  # fmt: skip
CHANGED = ["pissa", "olora"]
WEIGHTS = {"rslora": 0.75, "one-layer": -1.5, "all-linear": 0.5}


def base(dtype=torch.float64):
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, POSITIONS]


def save(model, name, more):
    folder = os.path.join(OUT, name)
    model.float().save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        said = json.load(f) | {"base_model_name_or_path": "llama"}
    # PEFT sorts what it saves; hands and other trainers do not, and it reads tables in the order of the file.
    said |= {k: more[k] for k in ("rank_pattern", "alpha_pattern") if k in more}
    if isinstance(said["target_modules"], list):
        said["target_modules"] = sorted(said["target_modules"])
    with open(path, "w") as f:
        json.dump(said, f, indent=1)
    os.chmod(os.path.join(folder, "adapter_model.safetensors"), 0o644)


def one(name, more):
    changed = name in CHANGED
    config = LoraConfig(**(dict(r=3, lora_alpha=8, task_type="CAUSAL_LM", base_model_name_or_path="llama") | more))
    model = get_peft_model(base(torch.float32 if changed else torch.float64), config).eval()
    with torch.no_grad():
        for part, p in model.named_parameters():
            if "modules_to_save" in part:
                p.copy_((p + 0.1 * torch.randn(p.shape)).float().to(p.dtype))
            if "lora_" in part:
                drawn = 0.15 * torch.randn(p.shape)
                # What was learned since, or all of it.
                p.copy_((p + drawn if changed else drawn).to(p.dtype))
    result = logits(model.double())
    save(model, name, more)
    return result


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(11)
    cut = lambda rows: [[float(f"{v:.7g}") for v in row] for row in rows.tolist()]
    plain = logits(base())
    result = {"tokens": TOKENS, "positions": POSITIONS, "plain": cut(plain), "weights": WEIGHTS, "logits": {}}
    for name, more in VARIANTS.items():
        found = one(name, more)
        print(f"{name:20} changes {(found - plain).abs().max().item():.3f}")
        result["logits"][name] = cut(found)
    names = list(WEIGHTS)
    several = PeftModel.from_pretrained(base(), os.path.join(OUT, names[0]), adapter_name=names[0])
    for name in names[1:]:
        several.load_adapter(os.path.join(OUT, name), adapter_name=name)
    several.base_model.set_adapter(names)
    for module in several.modules():
        if isinstance(module, LoraLayer):
            for name in set(WEIGHTS) & set(module.scaling):
                module.set_scale(name, WEIGHTS[name])
    result["several"] = cut(logits(several.double().eval()))
    with open(os.path.join(OUT, "logits.json"), "w") as f:
        json.dump(result, f)
        f.write("\n")


if __name__ == "__main__":
    main()
