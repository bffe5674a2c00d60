"""llama.cpp's speed on a GGUF file, to be set beside `ullage bench` of the same file, machine and threads.

    python tests/scripts/bench_llama.py MODEL.gguf [--threads 2] [--depths 0,512,4096] [--repeats 3]

As llama-bench: one warm-up, prefill of 512 tokens and decode of 128 at each depth, batches of 512, no sampling, f16 cache, flash
attention off; tokens are arbitrary. Prints JSON: points of depth, tokens per second and their sds, and every repeat.
"""

import argparse
import json
import statistics
import time

from llama import F16, F32, Model


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="0,512,4096", help="tokens in the cache already")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", choices=["f32", "f16"], default="f16")
    args = parser.parse_args()
    depths = [int(d) for d in args.depths.split(",")]

    model = Model(args.model)
    most = max(depths) + max(args.prefill, args.decode)
    context = model.context(most + 64, F32 if args.cache == "f32" else F16, args.threads, n_batch=512)
    tokens = [(i * 7919 + 17) % model.n_vocab for i in range(most)]

    def fill(start, count, logits="none"):
        for at in range(start, start + count, 512):
            end = min(at + 512, start + count)
            context.eval(tokens[at:end], at, logits if end == start + count else "none")

    def step(start, count):
        for at in range(start, start + count):
            context.eval(tokens[at : at + 1], at, "last")

    points = []
    for depth in depths:
        context.clear()
        fill(0, depth)
        prefills, decodes = [], []
        for repeat in range(args.repeats + 1):
            a = timed(lambda: fill(depth, args.prefill, "last"))
            context.truncate(depth)
            b = timed(lambda: step(depth, args.decode))
            context.truncate(depth)
            if repeat:  # the first one warms up
                prefills.append(args.prefill / a)
                decodes.append(args.decode / b)
        sd = lambda x: statistics.stdev(x) if len(x) > 1 else 0.0
        points.append(
            {
                "depth": depth,
                "prefill_tokens_per_second": statistics.mean(prefills),
                "prefill_sd": sd(prefills),
                "decode_tokens_per_second": statistics.mean(decodes),
                "decode_sd": sd(decodes),
                "prefill_repeats": prefills,
                "decode_repeats": decodes,
            }
        )
    print(json.dumps({"engine": "llama.cpp (llama-cpp-python)", "threads": args.threads, "cache": args.cache, "points": points}, indent=1))


if __name__ == "__main__":
    main()
