//! Hostile bytes: the fuzzer's corpus, and mutations of sound files. Never a panic, never more memory than the file warrants.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use proptest::prelude::*;
use ullage_core::ledger::alloc::{CountingAlloc, Scope, counts, reset_peaks, scoped};
use ullage_tests::fuzz::gguf as exercise;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// Peaks are counted for the process: one measurement at a time.
static ONE: Mutex<()> = Mutex::new(());

/// [`exercise::exercise`], and the most heap bytes it held at once.
fn measured(scratch: &mut File, bytes: &[u8]) -> (bool, u64) {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let before = counts().engine;
    reset_peaks();
    let sound = scoped(Scope::Engine, || exercise::exercise(scratch, bytes));
    (sound, (counts().engine_peak - before) as u64)
}

/// Memory a file of `len` bytes may cost: what is kept is at most a few times its bytes in the file; chunks are 64 KiB.
fn bound(len: usize) -> u64 {
    8 * len as u64 + (200 << 10)
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["fuzz/corpus/gguf", "fixtures/gguf"].into_iter().flat_map(|f| std::fs::read_dir(folder.join(f)).unwrap());
    let files = files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.map(|p| (p.display().to_string(), std::fs::read(&p).unwrap())).collect()
}

#[test]
fn the_corpus_never_panics_and_stays_small() {
    let mut scratch = tempfile::tempfile().unwrap();
    let corpus = corpus();
    assert!(corpus.len() > 80, "the corpus is gone");
    let mut sound = 0;
    for (name, bytes) in corpus {
        let (ok, peak) = measured(&mut scratch, &bytes);
        sound += usize::from(ok);
        assert!(peak <= bound(bytes.len()), "{name}: {peak} B of heap for a file of {} B", bytes.len());
    }
    assert!(sound >= 2, "sound files are read as far as they go");
}

/// The worst a file can do within the rules: as many of the smallest entries as fit, tensors or keys or strings.
#[test]
fn many_small_entries_cost_a_small_multiple_of_the_file() {
    let header = |tensors: u64, entries: u64| {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(tensors.to_le_bytes());
        out.extend(entries.to_le_bytes());
        out
    };
    // Three ASCII bytes, a different three for each n.
    let name = |n: u64| [&3u64.to_le_bytes()[..], &[n, n >> 7, n >> 14].map(|b| (b % 128) as u8)].concat();
    let mut keys = header(0, 60_000);
    for n in 0..60_000 {
        keys.extend(name(n));
        keys.extend([0, 0, 0, 0, 1]);
    }
    let mut tensors = header(60_000, 0);
    for n in 0..60_000u64 {
        tensors.extend(name(n));
        tensors.extend(1u32.to_le_bytes());
        tensors.extend(1u64.to_le_bytes());
        tensors.extend(24u32.to_le_bytes());
        tensors.extend((n * 32).to_le_bytes());
    }
    tensors.resize(tensors.len().next_multiple_of(32) + 60_000 * 32, 0);
    let mut strings = header(0, 1);
    strings.extend(1u64.to_le_bytes());
    strings.push(b'k');
    strings.extend(9u32.to_le_bytes());
    strings.extend(8u32.to_le_bytes());
    strings.extend(200_000u64.to_le_bytes());
    strings.resize(strings.len() + 200_000 * 8, 0);
    let mut bytes = header(0, 1);
    bytes.extend(1u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(4_000_000u64.to_le_bytes());
    bytes.resize(bytes.len() + 4_000_000, 0);

    let mut scratch = tempfile::tempfile().unwrap();
    for (name, file) in [("keys", keys), ("tensors", tensors), ("strings", strings), ("bytes", bytes)] {
        let (sound, peak) = measured(&mut scratch, &file);
        eprintln!("{name}: {peak} B of heap for {} B of file", file.len());
        assert!(sound, "{name}");
        assert!(peak <= bound(file.len()), "{name}: {peak} B of heap for {} B of file", file.len());
    }
}

/// Bytes replaced, the file cut, or eight bytes set to a number that overflows something.
fn mutate(bytes: &mut Vec<u8>, flips: &[(usize, u8)], words: &[(usize, u64)], cut: Option<usize>) {
    for (at, value) in flips {
        let at = at % bytes.len();
        bytes[at] = *value;
    }
    for (at, value) in words {
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    if let Some(cut) = cut {
        bytes.truncate(cut % (bytes.len() + 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn mutations_never_panic_and_stay_small(
        which in 0usize..1000,
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        words in prop::collection::vec(
            (any::<usize>(), prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 32), 0u64..64, any::<u64>()]), 0..2),
        cut in prop::option::of(any::<usize>()),
    ) {
        let sound = sound();
        let mut bytes = sound[which % sound.len()].clone();
        mutate(&mut bytes, &flips, &words, cut);
        let mut scratch = tempfile::tempfile().unwrap();
        let (_, peak) = measured(&mut scratch, &bytes);
        prop_assert!(peak <= bound(bytes.len()), "{} B of heap for {} B of file", peak, bytes.len());
    }
}

/// Sound files to start from: the hand-made one, llama.cpp's, and a whole small Llama.
fn sound() -> &'static [Vec<u8>] {
    static SOUND: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    SOUND.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        ["fuzz/corpus/gguf/sound.gguf", "fuzz/corpus/gguf/llama.gguf", "fixtures/gguf/gguf_py.gguf"]
            .map(|f| std::fs::read(folder.join(f)).unwrap())
            .to_vec()
    })
}
