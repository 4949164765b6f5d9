//! The parity tests again at the lower levels of vector instructions, each in a process of its own.

use std::process::Command;

use scumble::engine::ops::{self, Level};

fn parity_at(level: &str) {
    let tests = std::env::current_exe().unwrap();
    let output = Command::new(tests)
        .args(["parity::", "--test-threads", "2"])
        .env(ops::LEVEL_VARIABLE, level)
        .env_remove("SCUMBLE_UPDATE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{level}: {said}");
    assert!(said.contains("parity::embedded") && said.contains("parity::tiny"), "{said}");
}

#[test]
fn parity_holds_without_vector_extensions() {
    parity_at("portable");
}

#[test]
fn parity_holds_with_avx2() {
    if ops::level() > Level::Avx2 {
        parity_at("avx2");
    }
}

#[test]
fn a_level_that_does_not_exist_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_scumble"))
        .args(["run", "text2image", "steps=1"])
        .env(ops::LEVEL_VARIABLE, "avx1024")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("portable, avx2 or avx512") && said.contains("avx1024"), "{said}");
}
