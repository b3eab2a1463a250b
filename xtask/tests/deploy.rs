//! What `deploy/` repeats of the workspace: versions, ports, paths. They must not drift apart.

use std::fs;
use xtask::workspace;

fn read(path: &str) -> String {
    fs::read_to_string(workspace::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between the quotes of the line that begins so.
fn quoted(text: &str, key: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no line `{key}`"));
    line.split('"').nth(1).unwrap_or_else(|| panic!("`{line}` has no quotes")).to_owned()
}

#[test]
fn the_image_is_built_with_the_pinned_compiler() {
    let channel = quoted(&read("rust-toolchain.toml"), "channel");
    let minor = channel.rsplit_once('.').map_or(channel.as_str(), |(minor, _)| minor);
    let image = format!("rust:{minor}-");
    assert!(read("deploy/Containerfile").contains(&image), "deploy/Containerfile must build with {image}...");
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let version = quoted(&read("Cargo.toml"), "version");
    assert_eq!(quoted(&read("deploy/helm/alti/Chart.yaml"), "appVersion"), version);
}

#[test]
fn whoever_stops_a_server_waits_for_its_answers() {
    let example = read("crates/cli/src/serving/example.toml");
    let number = |text: &str, key: &str| -> u32 {
        let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no `{key}`"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no number after `{key}`"))
    };
    let drain = number(&example, "drain_seconds = ");
    assert!(number(&read("deploy/alti.service"), "TimeoutStopSec=") > drain);
    assert!(number(&read("deploy/helm/alti/values.yaml"), "terminationGracePeriodSeconds: ") > drain);
}
