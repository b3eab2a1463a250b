//! The dependency arrows, as cargo sees them, against the map.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::collections::BTreeSet;
use std::fs;
use xtask::crate_map::{self, CRATES, DEV_ONLY, is_forbidden};
use xtask::workspace;

fn metadata() -> Metadata {
    let manifest = workspace::root().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata")
}

/// Every arrow between packages of the workspace: from, to (folder names), kind.
fn arrows(metadata: &Metadata) -> Vec<(String, String, DependencyKind)> {
    let folder = |package: &str| package.strip_prefix("alti-").unwrap_or(package).to_string();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut found = Vec::new();
    for package in &metadata.packages {
        for dependency in
            package.dependencies.iter().filter(|dependency| ours.contains(dependency.name.as_str()))
        {
            found.push((folder(&package.name), folder(&dependency.name), dependency.kind));
        }
    }
    found
}

#[test]
fn the_map_and_the_workspace_have_the_same_crates() {
    let metadata = metadata();
    let inside: BTreeSet<String> = metadata
        .packages
        .iter()
        .filter(|package| package.manifest_path.as_str().replace('\\', "/").contains("/crates/"))
        .map(|package| package.name.to_string())
        .collect();
    let drawn: BTreeSet<String> = CRATES.iter().map(|entry| format!("alti-{}", entry.folder)).collect();
    assert_eq!(inside, drawn, "xtask/src/crate_map.rs and crates/ must agree");
}

#[test]
fn the_map_only_points_up() {
    for (index, entry) in CRATES.iter().enumerate() {
        for target in entry.depends_on {
            let above = CRATES[..index].iter().any(|earlier| earlier.folder == *target);
            assert!(above, "{} depends on {target}, which is not above it in the map", entry.folder);
            assert!(!is_forbidden(entry.folder, target), "{} depends on {target}", entry.folder);
        }
    }
}

#[test]
fn crates_depend_only_on_what_the_map_names() {
    for (from, to, kind) in arrows(&metadata()) {
        assert!(!is_forbidden(&from, &to), "{from} depends on {to}; it may not");
        assert_ne!(to, "xtask", "{from} depends on xtask; nothing may");
        if from == "xtask" || kind == DependencyKind::Development {
            continue;
        }
        assert_ne!(to, DEV_ONLY, "{from} depends on {DEV_ONLY}, which is only ever a dev-dependency");
        let reachable = crate_map::reachable(&from);
        assert!(reachable.contains(to.as_str()), "{from} depends on {to}; the map allows only {reachable:?}");
    }
}

#[test]
fn architecture_md_carries_the_map() {
    let text = fs::read_to_string(workspace::root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let table = crate_map::markdown();
    assert!(
        text.contains(&table),
        "ARCHITECTURE.md must contain this (print it with `cargo xtask map`):\n{table}"
    );
}
