//! Any bytes, as a `tokenizer.json`, with what it does to texts.

use std::cell::RefCell;

use ullage_core::model::hf::HfFolder;
use ullage_core::model::tokenizer::{Decoder, Tokenizer};

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "tokenizer",
    run,
    seeds: || [BPE, SPM, UNIGRAM, WORDS].map(|s| s.as_bytes().to_vec()).to_vec(),
    words: &[
        "\"type\"",
        "\"BPE\"",
        "\"Unigram\"",
        "\"WordPiece\"",
        "\"WordLevel\"",
        "\"ByteLevel\"",
        "\"Sequence\"",
        "\"Split\"",
        "\"Regex\"",
        "(a+)+$",
        "\"merges\"",
        "\"vocab\"",
        "\"byte_fallback\"",
        "\"added_tokens\"",
        "\"content\"",
        "null",
        "\"Metaspace\"",
        "\"Replace\"",
        "\"Precompiled\"",
        "\"NFKC\"",
        "\"Strip\"",
        "\"unk_token\"",
        "\"dropout\"",
        "1e300",
        "4294967295",
        "18446744073709551615",
        "\\u0000",
        "\\ud800",
        "\u{2581}",
    ],
    // Templates of the library's tokenizer, tables of a regular expression.
    heap: (64 << 20, 4096),
    ..PLAIN
};

const BPE: &str = r#"{"added_tokens":[{"id":0,"content":"<s>","special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},"post_processor":{"type":"ByteLevel"},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4,"Ġa":5,"abab":6},"merges":["a b","Ġ a",["ab","ab"]]}}"#;
const SPM: &str = r#"{"added_tokens":[{"id":1,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"</s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"</s>":{"id":"</s>","ids":[1],"tokens":["</s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},"model":{"type":"BPE","dropout":null,"unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"</s>":1,"<0x41>":2,"▁":3,"a":4,"▁a":5},"merges":["▁ a"]}}"#;
const UNIGRAM: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁",-2.0],["a",-3.5],["▁a",-2.5],["b",-4.0]],"byte_fallback":false}}"#;
const WORDS: &str = r###"{"version":"1.0","truncation":{"direction":"Right","max_length":8,"strategy":"LongestFirst","stride":0},"padding":null,"added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+|\\d"},"behavior":"Isolated","invert":false},{"type":"BertPreTokenizer"}]},"post_processor":null,"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":1,"##b":2,"c":3}}}"###;

/// Short texts of every kind of letter, and some that no tokenizer expects.
const TEXTS: [&str; 4] = [
    "Once upon a time, ab abab \n\n 12345",
    "",
    "日本語 naïve 👩‍👧 \u{0}\u{feff}</s><s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
];

thread_local! {
    static FOLDER: RefCell<(Scratch, HfFolder)> = {
        let scratch = Scratch::new().with(&["arch/llama/config.json", "arch/llama/model.safetensors"]);
        let folder = HfFolder::open(&scratch.path("")).unwrap().0;
        RefCell::new((scratch, folder))
    };
}

/// All that is done with a tokenizer.
pub(super) fn exercise(t: &Tokenizer) {
    for text in TEXTS {
        for special in [false, true] {
            let ids = t.encode(text, special, special);
            let mut decoder = Decoder::new();
            ids.iter().for_each(|id| drop(decoder.push(t, *id)));
            let _ = t.encode_spans(text, special, Some(&t.spelled(text)));
            let _ = (decoder.finish(), t.decode(&ids));
        }
    }
    for id in [0, 1, t.vocab() as u32, u32::MAX] {
        let _ = (t.piece(id), t.token(id), t.kind(id), t.is_control(id), t.is_end_of_generation(id));
    }
    let _ = (t.find("a"), t.bos(), t.eos(), t.unk(), t.pad(), t.adds_bos(), t.heap_bytes());
}

fn run(bytes: &[u8]) -> bool {
    FOLDER.with_borrow(|(scratch, folder)| {
        scratch.file("tokenizer.json", bytes);
        match folder.tokenizer() {
            Ok(Some(t)) => {
                exercise(&t);
                true
            }
            Ok(None) => false,
            Err(e) => {
                plain_error(&e);
                false
            }
        }
    })
}
