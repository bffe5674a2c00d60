"""Reads recall.gguf with llama.cpp, an engine that shares no code with ours, and examines it there (f16 cache, greedy).

    python verify.py recall.gguf [exams a cell] [exams.json]

Needs PyPI numpy, llama-cpp-python. Prints the share of right answers; with a third argument writes the
1000-token exams as text (prompt, answer, number of prompt ids with bos), for tests of other engines.
"""

import json
import os
import sys

import data
from llama_cpp import Llama


def main(path, count=20, fixture=None):
    data.load_tokenizer(os.path.join(os.path.dirname(os.path.abspath(__file__)), "merges.json"))
    model = Llama(path, n_ctx=4096, n_threads=os.cpu_count(), verbose=False)
    written = []
    for task in ("passkey", "needle", "babble", "codes"):
        for n in (1000, 4000):
            right, asked = 0, count if n == 1000 else max(1, count // 5)
            for k in range(asked):
                ids, where = data.exam(task, n, (0.1, 0.3, 0.5, 0.7)[k % 4], 1000 + k)
                if task == "codes":  # the first of the questions
                    where = where[:3]
                prompt, answer = ids[:where[0]], data.decode([ids[i] for i in where])
                text = data.decode(prompt[1:])
                assert model.tokenize(text.encode(), add_bos=True, special=True) == prompt, "tokenizers differ"
                right += model.create_completion(prompt, max_tokens=len(where), temperature=0)["choices"][0]["text"] == answer
                if n == 1000 and k < 4:
                    written.append({"task": task, "prompt": text, "answer": answer, "prompt_ids": len(prompt)})
            print(f"{task} {n} tokens: {right}/{asked}", flush=True)
    if fixture:
        json.dump(written, open(fixture, "w"), indent=1)
    for prompt in ("Once upon a time", "The weather today is"):
        print(prompt + model.create_completion(prompt, max_tokens=200, temperature=0.7, seed=3)["choices"][0]["text"])
    for q in ("Tell me a story about a fox.", "The grass is green. The pass key is 7319. Here we go. What is the pass key?", "What is the capital of France?"):
        said = model.create_chat_completion([{"role": "user", "content": q}], max_tokens=200, temperature=0)
        print(f"{q} => {said['choices'][0]['message']['content']}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20, sys.argv[3] if len(sys.argv) > 3 else None)
