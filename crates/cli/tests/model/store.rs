//! The default model, in the store that `cargo xtask test` keeps for tests.

use crate::common::{Done, User};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The default model's name.
const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// The root of the checkout.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The store: `ALTI_HOME`, or where `cargo xtask test` puts it.
pub fn folder() -> PathBuf {
    let chosen = std::env::var_os("ALTI_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    chosen.unwrap_or_else(|| repository().join("target/test-store"))
}

/// The default model's file.
pub fn default_model() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let home = folder();
        let mut command = User::new().command(&["show", DEFAULT_MODEL, "--json"]);
        // The folder of that user is gone by now.
        let output = command.current_dir(repository()).env("ALTI_HOME", &home).output();
        let done = Done::of(output.expect("the binary runs"));
        assert_eq!(
            done.code,
            0,
            "these tests want the default model in {}; `cargo xtask test` brings it: {}",
            home.display(),
            done.stderr
        );
        let shown: serde_json::Value = serde_json::from_str(&done.stdout).expect("show prints JSON");
        PathBuf::from(shown["path"].as_str().expect("a model has a path"))
    })
}

/// A user with a store of their own, for whom the default model is the one that is meant.
pub fn user() -> User {
    User::with_model(default_model())
}
