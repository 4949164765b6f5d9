//! Every crate that the program is built from has a licence that allows shipping it, and none needs a C toolchain.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

use serde_json::Value;

/// Licences under which a dependency may be shipped.
const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "Unlicense",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "MPL-2.0",
    "MPL-2.0+",
];

/// Crates allowed by name. ansi_colours (below viuer, which prints half-blocks) is under the LGPL: shipping the program
/// with its source, from which anyone can link it again, is what that licence asks for.
const EXCEPTIONS: &[(&str, &str)] = &[("ansi_colours", "LGPL-3.0-or-later")];

/// Build tools that would need a compiler or a library of the system.
const NATIVE: &[&str] =
    &["cc", "cmake", "pkg-config", "bindgen", "vcpkg", "openssl-sys", "onig_sys", "libsixel-sys"];

/// Crates that the default build reaches: normal and build dependencies, no dev-dependencies.
fn reached() -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_string();
    let packages: BTreeMap<String, &Value> =
        json["packages"].as_array().unwrap().iter().map(|p| (text(p, "id"), p)).collect();
    let nodes: BTreeMap<String, &Value> =
        json["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (text(n, "id"), n)).collect();
    let root = json["resolve"]["root"].as_str().unwrap().to_string();
    let mut seen = BTreeSet::from([root.clone()]);
    let mut queue = VecDeque::from([root.clone()]);
    while let Some(id) = queue.pop_front() {
        for dep in nodes[&id]["deps"].as_array().unwrap() {
            let shipped = dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"] != "dev");
            let to = text(dep, "pkg");
            if shipped && seen.insert(to.clone()) {
                queue.push_back(to);
            }
        }
    }
    seen.remove(&root);
    seen.into_iter().map(|id| (text(packages[&id], "name"), text(packages[&id], "license"))).collect()
}

#[test]
fn every_dependency_may_be_shipped() {
    let crates = reached();
    assert!(crates.len() > 50, "the dependency graph was read");
    let bad: Vec<String> = crates
        .iter()
        .filter(|(name, licence)| !EXCEPTIONS.contains(&(name.as_str(), licence.as_str())))
        .filter(|(_, licence)| {
            let allowed = |text: &str| {
                spdx::Expression::parse_mode(text, spdx::ParseMode::LAX)
                    .is_ok_and(|e| e.evaluate(|r| ALLOWED.iter().any(|a| r.to_string() == *a)))
            };
            !allowed(licence)
        })
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect();
    assert!(bad.is_empty(), "licences that nobody allowed:\n{}", bad.join("\n"));
}

#[test]
fn the_default_build_needs_no_c_compiler() {
    let crates = reached();
    let native: Vec<&str> = NATIVE.iter().copied().filter(|n| crates.contains_key(*n)).collect();
    assert!(native.is_empty(), "crates that need the system's compiler or libraries: {native:?}");
}
