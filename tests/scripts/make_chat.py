"""Makes tests/fixtures/tokenizer/chat.json: templates and what Python's Jinja makes of them, set up as Hugging Face does.

    python tests/scripts/make_chat.py SmolLM2-135M-Instruct.Q4_1.gguf     (pip install jinja2 gguf)
"""

import json
import sys
from pathlib import Path

import gguf
import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = Path(__file__).parent.parent / "fixtures" / "tokenizer" / "chat.json"

TEMPLATES = {
    "llama-2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "tinyllama": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "whitespace": "{%- set ns = namespace(first=true, n=0) -%}\n{%- for m in messages if m.role != 'system' %}\n    {%- set ns.n = ns.n + 1 %}\n    {%- if ns.first %}\n{{ bos_token }}\n    {%- set ns.first = false %}\n    {%- endif %}\n  {{ loop.index }}/{{ messages|length }} {{ m['role'].upper() }}: {{ m.content.split('\n')[0] | trim }}{{ '!' if loop.last else '.' }}\n{%- endfor %}\n{# a comment #}\n{% if add_generation_prompt is defined and add_generation_prompt %}\n>{{ ns.n }}\n{% endif %}\n",
    "methods": "{% for m in messages %}{{ m.content.startswith('Hi') }} {{ m.content.replace('i', 'o').lower() }} {{ m.get('name', 'nobody') }} {{ m['content'].rstrip().endswith('?') }} {{ 'tool' in m.content }} {{ m.content | tojson }} {% if m.name is defined and m.name %}named{% endif %}{% for k in ['a', 'b'] %}{{ k ~ loop.index0 }}{% endfor %}\n{% endfor %}{{ messages[-1].role == 'user' and messages|map(attribute='role')|join(',') }}",
}

CONVERSATIONS = [
    [("user", "Hi")],
    [("user", "  What is 2+2?  \nBe brief. "), ("assistant", " 4 "), ("user", "Sure? <|im_end|> é 漢 \"q\" & <b>")],
    [("system", "You are terse."), ("user", "Hi there")],
    [("system", "You are terse."), ("user", "Hi there"), ("assistant", "Hi!"), ("user", "Use a tool?")],
    [("assistant", "I go first")],
    [("user", "a"), ("user", "b")],
    [("user", "")],
]


class Raised(Exception):
    pass


def refuse(message):
    raise Raised(message)


def main(path):
    templates = {"smollm2": gguf.GGUFReader(path).get_field("tokenizer.chat_template").contents(), **TEMPLATES}
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    env.globals["raise_exception"] = refuse
    rows = []
    for name, source in templates.items():
        template = env.from_string(source)
        for turns in CONVERSATIONS:
            messages = [{"role": r, "content": c} for r, c in turns]
            for add in (False, True):
                row = {"template": name, "messages": messages, "add_generation_prompt": add}
                try:
                    row["text"] = template.render(messages=messages, add_generation_prompt=add, bos_token="<s>", eos_token="</s>")
                except (Raised, jinja2.TemplateError) as e:
                    row["error"] = str(e)
                rows.append(row)
    OUT.write_text(json.dumps({"templates": templates, "rows": rows}, indent=0, ensure_ascii=False) + "\n")
    print(len(rows), "rows,", sum("error" in r for r in rows), "errors")


if __name__ == "__main__":
    main(sys.argv[1])
