//! What `.ci/run` says at its end: tests that could not run are counted, with their reasons, and are none that passed.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

const LOG: &str = "\
running 5 tests
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

fn total(skips: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (log, list) = (folder.path().join("log"), folder.path().join("skips"));
    std::fs::write(&log, LOG).unwrap();
    std::fs::write(&list, skips).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/total.sh");
    let done = Command::new("bash").arg(script).args([log, list]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn what_did_not_run_is_counted_once_with_its_reasons() {
    assert_eq!(total(""), "12 passed, 2 failed, 0 not run\n");
    let said =
        total("core::b\tno GPU\ncore::a\tno GPU\ncore::a\tno GPU\npanels::c\tno device\ncore::d in part\tAvx512\n");
    assert_eq!(
        said,
        "2 not run: no GPU\n    core::a\n    core::b\n1 in part: Avx512\n    core::d\n1 not run: no device\n    panels::c\n\
         9 passed, 2 failed, 3 not run\n"
    );
    // Two reasons are two lines and one test.
    assert!(total("core::a\tno GPU\ncore::a\tno model\n").ends_with("\n11 passed, 2 failed, 1 not run\n"));
}

/// This test's own child passes over: it is written down where `ULLAGE_SKIPS` says, and a model that CI must have fails it.
#[test]
fn a_test_that_passes_over_is_written_down_and_a_missing_model_fails_in_ci() {
    const CHILD: &str = "ULLAGE_TEST_LACKS";
    if std::env::var_os(CHILD).is_some() {
        assert!(ullage_tests::skip::smollm2_file().is_none());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("skips");
    let run = |ci: &str| {
        let name = "a_test_that_passes_over_is_written_down_and_a_missing_model_fails_in_ci";
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args([name, "--exact"]).env(CHILD, "1").env("ULLAGE_SKIPS", &list).env("CI", ci);
        test.env("ULLAGE_SMOLLM2", folder.path().join("no.gguf"));
        test.output().unwrap()
    };
    assert!(run("").status.success());
    let written = std::fs::read_to_string(&list).unwrap();
    let (name, reason) = written.strip_suffix('\n').unwrap().split_once('\t').unwrap();
    assert!(name.starts_with("ci_total::a_test_that_passes_over"), "{name}");
    assert!(reason.contains("SmolLM2") && reason.contains("ULLAGE_SMOLLM2"), "{reason}");
    let failed = run("true");
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stdout).contains("which CI has to have"), "{failed:?}");
    assert_eq!(std::fs::read_to_string(&list).unwrap(), written, "a failure is no absence");
}
