"""Training steps of PyTorch, to be set beside `cargo run --release --features cuda -p ullage-core --example train_gpu -- steps`.

    python tests/scripts/bench_torch.py [--shapes smollm2-135m,llama-1b] [--steps 10]

Needs torch, transformers and peft, and an NVIDIA GPU. Random weights in bf16, B = 4, T = 512, fused AdamW (its moments have the
weights' type: bf16), eager, scaled-dot-product attention; LoRA of rank 8 on all seven linears. Prints a JSON line a case: ms a
step (mean after three warm-up steps) and the allocator's peak in MiB, with activations kept and with gradient checkpointing.
"""

import argparse
import gc
import json
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smollm2-135m": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "llama-1b": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128256, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
}  # fmt: skip
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(shape, method, checkpoint, steps):
    gc.collect()
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(torch.bfloat16)
    gc.collect()
    torch.cuda.empty_cache()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS))
        model.to(torch.bfloat16)
    if checkpoint:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.config.use_cache = False
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True)
    ids = torch.randint(0, SHAPES[shape]["vocab_size"], (4, 512), device="cuda")

    def step():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        loss = step()
    torch.cuda.synchronize()
    ms = (time.perf_counter() - start) * 1e3 / steps
    peak = torch.cuda.max_memory_allocated() / 2**20
    case = {"shape": shape, "method": method, "checkpoint": checkpoint, "ms": round(ms, 1), "peak_mib": round(peak)}
    print(json.dumps(case | {"loss": round(loss.item(), 4)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="smollm2-135m,llama-1b")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "gpu": torch.cuda.get_device_name()}))
    for shape in args.shapes.split(","):
        for method in ("full", "lora"):
            for checkpoint in (False, True):
                run(shape, method, checkpoint, args.steps)


if __name__ == "__main__":
    main()
