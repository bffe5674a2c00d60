"""Makes tests/fixtures/outline/models.json: public models by their published hyper-parameters, from 1B to 1T, with their numbers of
parameters counted by transformers on the meta device (nothing is allocated), what their makers say, and what one token costs
their caches in f16, by hand or as published.

    python tests/scripts/make_outline.py            (pip install torch transformers)
"""

import json
from pathlib import Path

import torch
import transformers

OUT = Path(__file__).parent.parent / "fixtures" / "outline" / "models.json"
LLAMA3 = dict(num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0)
QWEN3_MOE = dict(num_key_value_heads=4, head_dim=128, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, vocab_size=151936,
                 max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000.0)
MIXTRAL = dict(num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-5, rope_theta=1000000.0)
V3 = dict(hidden_size=7168, num_hidden_layers=61, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
          intermediate_size=18432, moe_intermediate_size=2048, n_shared_experts=1, num_experts_per_tok=8, topk_method="noaux_tc",
          max_position_embeddings=131072, rms_norm_eps=1e-6)
GPT_OSS = dict(hidden_size=2880, num_attention_heads=64, num_key_value_heads=8, head_dim=64, intermediate_size=2880, num_experts_per_tok=4,
               vocab_size=201088, sliding_window=128, swiglu_limit=7.0, attention_bias=True, max_position_embeddings=131072, rms_norm_eps=1e-5)
# name, model_type, hyper-parameters, what its makers say, bytes a token of full layers in f16 and where that is said.
MODELS = [
    ("Llama-3.2-1B", "llama", dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, head_dim=64, intermediate_size=8192, tie_word_embeddings=True, **LLAMA3), "1.24B", 32768, "2·16·8·64·2"),
    ("Llama-3.1-8B", "llama", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14336, **LLAMA3), "8.03B", 131072, "2·32·8·128·2"),
    ("Llama-3.1-70B", "llama", dict(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, intermediate_size=28672, **LLAMA3), "70.6B", 327680, "2·80·8·128·2"),
    ("Llama-3.1-405B", "llama", dict(hidden_size=16384, num_hidden_layers=126, num_attention_heads=128, intermediate_size=53248, **LLAMA3), "405B", 516096, "516.096 KB, arXiv 2505.09343, table 1"),
    ("Mistral-7B-v0.1", "mistral", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336, vocab_size=32000, sliding_window=4096, max_position_embeddings=32768, rms_norm_eps=1e-5), "7.24B", 0, "every layer has a window"),
    ("Qwen2.5-7B", "qwen2", dict(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944, vocab_size=152064, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0), "7.61B", 57344, "2·28·4·128·2"),
    ("Qwen2.5-72B", "qwen2", dict(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, intermediate_size=29568, vocab_size=152064, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0), "72.7B", 327680, "327.680 KB, arXiv 2505.09343, table 1"),
    ("Qwen3-0.6B", "qwen3", dict(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000.0), "0.6B", 114688, "2·28·8·128·2"),
    ("gemma-2-9b", "gemma2", dict(hidden_size=3584, num_hidden_layers=42, num_attention_heads=16, num_key_value_heads=8, head_dim=256, intermediate_size=14336, vocab_size=256000, sliding_window=4096, query_pre_attn_scalar=256, max_position_embeddings=8192, rms_norm_eps=1e-6), "9.24B", 172032, "2·21·8·256·2, every other layer"),
    ("gemma-3-27b text", "gemma3_text", dict(hidden_size=5376, num_hidden_layers=62, num_attention_heads=32, num_key_value_heads=16, head_dim=128, intermediate_size=21504, vocab_size=262208, sliding_window=1024, query_pre_attn_scalar=168, max_position_embeddings=131072, rms_norm_eps=1e-6), "27B", 81920, "2·10·16·128·2, every sixth layer"),
    ("Phi-3-mini-4k", "phi3", dict(hidden_size=3072, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, intermediate_size=8192, vocab_size=32064, sliding_window=None, max_position_embeddings=4096, rms_norm_eps=1e-5, pad_token_id=0), "3.82B", 393216, "2·32·32·96·2"),
    ("Phi-4-mini", "phi3", dict(hidden_size=3072, num_hidden_layers=32, num_attention_heads=24, num_key_value_heads=8, intermediate_size=8192, vocab_size=200064, partial_rotary_factor=0.75, tie_word_embeddings=True, sliding_window=None, max_position_embeddings=131072, rms_norm_eps=1e-5, pad_token_id=0), "3.84B", 131072, "2·32·8·128·2"),
    ("OLMo-2-7B", "olmo2", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, intermediate_size=11008, vocab_size=100352, max_position_embeddings=4096, rms_norm_eps=1e-6), "7.3B", 524288, "2·32·32·128·2"),
    ("granite-3.1-8b", "granite", dict(hidden_size=4096, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=8, intermediate_size=12800, vocab_size=49155, tie_word_embeddings=True, embedding_multiplier=12.0, attention_multiplier=0.0078125, residual_multiplier=0.22, logits_scaling=16.0, max_position_embeddings=131072, rms_norm_eps=1e-5), "8.1B", 163840, "2·40·8·128·2"),
    ("SmolLM3-3B", "smollm3", dict(hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=4, intermediate_size=11008, vocab_size=128256, tie_word_embeddings=True, max_position_embeddings=65536, rms_norm_eps=1e-6), "3.08B", 73728, "2·36·4·128·2"),
    ("Mixtral-8x7B", "mixtral", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14336, vocab_size=32000, max_position_embeddings=32768, **MIXTRAL), "46.7B", 131072, "32 GB at 256K, arXiv 2403.19887, table 1"),
    ("Mixtral-8x22B", "mixtral", dict(hidden_size=6144, num_hidden_layers=56, num_attention_heads=48, intermediate_size=16384, vocab_size=32768, max_position_embeddings=65536, **MIXTRAL), "141B", 229376, "2·56·8·128·2"),
    ("Qwen3-30B-A3B", "qwen3_moe", dict(hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, intermediate_size=6144, moe_intermediate_size=768, **QWEN3_MOE), "30.5B", 98304, "2·48·4·128·2"),
    ("Qwen3-235B-A22B", "qwen3_moe", dict(hidden_size=4096, num_hidden_layers=94, num_attention_heads=64, intermediate_size=12288, moe_intermediate_size=1536, **QWEN3_MOE), "235B", 192512, "2·94·4·128·2"),
    ("OLMoE-1B-7B", "olmoe", dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=16, intermediate_size=1024, num_experts=64, num_experts_per_tok=8, vocab_size=50304, max_position_embeddings=4096, rms_norm_eps=1e-5), "6.92B", 131072, "2·16·16·128·2"),
    ("Qwen1.5-MoE-A2.7B", "qwen2_moe", dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16, intermediate_size=5632, moe_intermediate_size=1408, shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4, vocab_size=151936, max_position_embeddings=8192, rms_norm_eps=1e-6), "14.3B", 196608, "2·24·16·128·2"),
    ("gpt-oss-20b", "gpt_oss", dict(num_hidden_layers=24, num_local_experts=32, layer_types=["sliding_attention", "full_attention"] * 12, **GPT_OSS), "20.9B", 24576, "2·12·8·64·2, every other layer"),
    ("gpt-oss-120b", "gpt_oss", dict(num_hidden_layers=36, num_local_experts=128, layer_types=["sliding_attention", "full_attention"] * 18, **GPT_OSS), "117B", 36864, "2·18·8·64·2, every other layer"),
    ("DeepSeek-V2-Lite", "deepseek_v2", dict(hidden_size=2048, num_hidden_layers=27, num_attention_heads=16, num_key_value_heads=16, kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=10944, moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, first_k_dense_replace=1, vocab_size=102400, max_position_embeddings=163840, rms_norm_eps=1e-6), "15.7B", 31104, "27·(512+64)·2"),
    ("DeepSeek-V3", "deepseek_v3", dict(num_attention_heads=128, num_key_value_heads=128, n_routed_experts=256, first_k_dense_replace=3, vocab_size=129280, **V3), "671B", 70272, "70.272 KB, arXiv 2505.09343, table 1"),
    ("Kimi-K2", "deepseek_v3", dict(num_attention_heads=64, num_key_value_heads=64, n_routed_experts=384, first_k_dense_replace=1, vocab_size=163840, **V3), "1T", 70272, "61·(512+64)·2"),
    ("Jamba-v0.1", "jamba", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336, num_experts=16, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1, attn_layer_period=8, attn_layer_offset=4, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=256, vocab_size=65536, max_position_embeddings=262144, rms_norm_eps=1e-6, use_mamba_kernels=False), "52B", 16384, "4 GB at 256K, arXiv 2403.19887, table 1"),
    ("Qwen3-Next-80B-A3B", "qwen3_next", dict(hidden_size=2048, num_hidden_layers=48, num_attention_heads=16, num_key_value_heads=2, head_dim=256, full_attention_interval=4, linear_num_key_heads=16, linear_key_head_dim=128, linear_num_value_heads=32, linear_value_head_dim=128, linear_conv_kernel_dim=4, intermediate_size=5120, moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts=512, num_experts_per_tok=10, norm_topk_prob=True, decoder_sparse_step=1, vocab_size=151936, max_position_embeddings=262144, rms_norm_eps=1e-6), "80B", 24576, "2·12·2·256·2, every fourth layer"),
    ("Bamba-9B", "bamba", dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, attn_layer_indices=[9, 18, 27], intermediate_size=14336, mamba_n_heads=128, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2, vocab_size=128256, max_position_embeddings=262144, rms_norm_eps=1e-5), "9.78B", 12288, "2·3·8·128·2"),
    ("granite-4.0-h-small", "granitemoehybrid", dict(hidden_size=4096, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=8, layer_types=["attention" if i % 10 == 5 else "mamba" for i in range(40)], intermediate_size=768, shared_intermediate_size=1536, num_local_experts=72, num_experts_per_tok=10, mamba_n_heads=128, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2, vocab_size=100352, tie_word_embeddings=True, max_position_embeddings=131072, rms_norm_eps=1e-5), "32B", 16384, "2·4·8·128·2"),
    ("Nemotron-H-8B", "nemotron_h", dict(hidden_size=4096, num_hidden_layers=52, hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", num_attention_heads=32, num_key_value_heads=8, head_dim=128, intermediate_size=21504, mlp_hidden_act="relu2", mamba_num_heads=128, mamba_head_dim=64, ssm_state_size=128, n_groups=8, conv_kernel=4, expand=2, vocab_size=131072, max_position_embeddings=8192), "8.1B", 16384, "2·4·8·128·2"),
    ("Falcon-H1-7B", "falcon_h1", dict(hidden_size=3072, num_hidden_layers=44, num_attention_heads=12, num_key_value_heads=2, head_dim=128, intermediate_size=12288, mamba_d_ssm=3072, mamba_n_heads=24, mamba_d_head=128, mamba_d_state=256, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2, vocab_size=130048, max_position_embeddings=262144, rms_norm_eps=1e-5), "7.59B", 45056, "2·44·2·128·2"),
]


def main():
    out = []
    for name, kind, config, said, token, by in MODELS:
        made = {k: v for k, v in config.items() if v is not None or k in ("sliding_window", "q_lora_rank")}
        if kind == "nemotron_h":
            kinds = {"M": "mamba", "*": "attention", "-": "mlp"}
            made["layers_block_type"] = [kinds[c] for c in made.pop("hybrid_override_pattern")]
            made.pop("num_hidden_layers")
        count = None
        try:
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **made))
            count = sum(p.numel() for p in model.parameters())
        except Exception as e:  # what transformers cannot make is left to the published figure
            print(name, type(e).__name__, str(e)[:200])
        print(f"{name:24} {said:>8} {count or 0:>18,} {token:>8} {by}")
        config = {k: v for k, v in config.items() if v is not None and k != "use_mamba_kernels"}
        out.append(dict(name=name, says=said, parameters=count, token=token, by=by, config=dict(model_type=kind, torch_dtype="bfloat16", **config)))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(m, ensure_ascii=False) for m in out) + "\n]\n")


if __name__ == "__main__":
    main()
