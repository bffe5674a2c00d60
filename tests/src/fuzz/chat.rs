//! Any text, as a chat template, rendered over a conversation.

use std::time::Duration;

use ullage_core::model::chat::{ChatTemplate, Message};

use super::{PLAIN, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "chat",
    run,
    seeds: || SEEDS.iter().map(|s| s.as_bytes().to_vec()).collect(),
    words: &[
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if ",
        "{% else %}",
        "{% endif %}",
        "{% set x = x ~ x %}",
        "{% macro f(a) %}",
        "{% endmacro %}",
        "{{ f(1) }}",
        "range(1000000000)",
        "|join",
        "|tojson",
        "|trim",
        "|length",
        ".split('')",
        ".strip()",
        "[::-1]",
        "[0:99999999999]",
        "namespace(a=1)",
        "raise_exception('x')",
        "strftime_now('%Y %e %-d %Q %')",
        "loop.index",
        "loop.previtem",
        "9223372036854775807",
        "-9223372036854775808",
        "// 0",
        "% 0",
        "** 99999",
        "* 'a'",
        "'a' * 1000000000",
        "|indent(1000000000)",
        "|batch(0)",
        "|slice(0)",
        "|replace('', 'xx')",
        "{% break %}",
        "{% raw %}",
        "{% filter upper %}",
        "{% call f() %}",
        "{% generation %}",
        "{% endgeneration %}",
        "'%s %5d' % (1, 'a')",
        "'{:>9999999999}'.format(1)",
        ".replace('', 'x' * 9999)",
        ".center(9999999999)",
        ".expandtabs(99999999)",
        "|truncate(1)",
        "|indent(9999999999, true, true)",
        "{% include 'chat' %}",
        "{% extends 'chat' %}",
        "\u{e9}",
        "\\u0000",
    ],
    // What a template may make by its steps.
    heap: (256 << 20, 256),
    longest: Duration::from_secs(4),
    ..PLAIN
};

const SEEDS: [&str; 4] = [
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] | trim + '\\n\\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role.upper() ~ m.content.split('.')[-1].strip() }}{% endfor %}",
    "{%- macro part(x, deep=0) -%}{% if deep < 3 %}{{ x[deep:] }}{{ part(x, deep + 1) }}{% endif %}{%- endmacro -%}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ part(m.content) }}{{ m | tojson(indent=2) }}{% if loop.last %}{% continue %}{% endif %}{% endfor %}{{ ns.n }}",
    "{{ strftime_now('%d %b %Y') }}{% for i in range(10) %}{{ [i, i * i, 'x' * i] | join(', ') }}{% endfor %}",
];

fn run(bytes: &[u8]) -> bool {
    let source = String::from_utf8_lossy(bytes);
    let template = match ChatTemplate::new(&source) {
        Ok(template) => template,
        Err(e) => {
            plain_error(&e);
            return false;
        }
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Où? 日本 {{ 7 * 7 }} \"quoted\""),
        Message::new("assistant", ""),
    ];
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect();
    template.render(&messages, true, &special).map_err(|e| plain_error(&e)).is_ok()
}
