//! The portable backend: what CUDA and Metal run. Every test target whose code computes includes this file as a module.

use std::process::Command;

/// Runs this very executable again with `RLHF_REFERENCE=1`, so that all its tests hold on the reference form of every operation too.
#[test]
fn every_test_here_holds_on_the_portable_backend_too() {
    const SWITCH: &str = "RLHF_REFERENCE";
    if std::env::var_os(SWITCH).is_some() {
        return; // this is the second run, or the whole suite was started with one backend
    }
    let again = std::env::current_exe().unwrap();
    let output = Command::new(again).env(SWITCH, "1").output().unwrap();
    assert!(
        output.status.success(),
        "with {SWITCH}=1:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
