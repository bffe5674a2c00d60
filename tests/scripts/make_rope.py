"""Logits of the tiny llama of fixtures/arch with a base that grows with the text (dynamic NTK), by transformers in float64.

    python tests/scripts/make_rope.py           (pip install torch transformers)

Writes ../fixtures/rope/dynamic.json: what config.json says of the rotation, ids, and logits after all of them and after the first few,
within the context.
"""

import json
import os

import torch
from transformers import AutoConfig, AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = os.path.join(HERE, "../fixtures/arch/llama")
OUT = os.path.join(HERE, "../fixtures/rope")
ROPE = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0}
CONTEXT, FEW = 16, 12
IDS = [(i * i * 5 + 3 * i + 1) % 48 for i in range(40)]


def main():
    config = AutoConfig.from_pretrained(BASE)
    config.rope_parameters, config.max_position_embeddings = ROPE, CONTEXT
    result = {"rope": ROPE, "context": CONTEXT, "ids": IDS, "few": FEW}
    for name, n in [("whole", len(IDS)), ("within", FEW)]:
        # A new model each: what was turned for a long text would stay.
        model = AutoModelForCausalLM.from_pretrained(BASE, config=config, dtype=torch.float64).eval()
        with torch.no_grad():
            rows = model(torch.tensor([IDS[:n]])).logits[0]
        result[name] = [float(f"{v:.9g}") for v in rows[-1].tolist()]
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "dynamic.json"), "w") as f:
        json.dump(result, f)
        f.write("\n")


if __name__ == "__main__":
    main()
