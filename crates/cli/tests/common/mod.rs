//! The binary as a user runs it: in a process of its own, with a store of its own and nothing of this
//! machine's environment.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use alti_formats::gguf::{TensorPlan, Value, WriteOptions, write_gguf};
use serde_json::Value as Json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A user with an empty store.
pub struct User {
    folder: tempfile::TempDir,
    /// The model that is meant where a command names none.
    model: Option<PathBuf>,
}

/// What a run of the binary did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl User {
    pub fn new() -> User {
        User { folder: tempfile::tempdir().expect("a temporary folder"), model: None }
    }

    /// A user for whom `model` is the one that is meant where a command names none.
    pub fn with_model(model: &Path) -> User {
        User { model: Some(model.to_owned()), ..User::new() }
    }

    /// A file in this user's folder, which is the current one of every run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("the file can be written");
        path
    }

    /// The names in this user's folder that begin so.
    pub fn files_named(&self, prefix: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alti"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("ALTI_HOME", self.path("store")).env("USER", "tester");
        // A copy of the model for each user would only fill the disk.
        command.env("ALTI_PACKED", "off");
        command.envs(self.model.iter().map(|model| ("ALTI_MODEL", model)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().expect("the binary runs"))
    }

    /// A run that reads `input` from a pipe.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("the input is read");
        drop(stdin);
        Done::of(child.wait_with_output().expect("it ends"))
    }

    /// The JSON that a run prints, which has to succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Json {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", done.stdout))
    }

    /// A run that fails with that code, in one line that says all of `says`.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], code: i32, says: &[&str]) {
        let done = self.run(arguments);
        assert_eq!(done.code, code, "{arguments:?}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{arguments:?}: {}", done.stdout);
        let last = done.stderr.lines().last().unwrap_or_default();
        for word in says {
            assert!(last.contains(word), "{arguments:?} should say {word:?}: {}", done.stderr);
        }
    }
}

impl Done {
    pub fn of(output: Output) -> Done {
        Done {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// The ids of the tiny tokenizer's tokens of more than a character.
pub const HELLO: u32 = 99;
pub const END: u32 = 100;

/// Metadata of a tokenizer that knows printable ASCII, space, newline, `hello` and `<|end|>`.
pub fn tokenizer_metadata() -> Vec<(String, Value)> {
    let characters = ('!'..='~').map(String::from);
    let tokens: Vec<String> =
        characters.chain(["Ġ", "Ċ", "he", "hel", "lo", "hello", "<|end|>"].map(String::from)).collect();
    let kinds = (0..tokens.len()).map(|id| if id == END as usize { 3 } else { 1 });
    let string = |text: &str| Value::String(text.to_owned());
    let pairs = [
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.pre", string("gpt-2")),
        ("tokenizer.ggml.token_type", Value::i32s(kinds)),
        ("tokenizer.ggml.tokens", Value::strings(&tokens)),
        ("tokenizer.ggml.merges", Value::strings(["h e", "he l", "l o", "hel lo"])),
        ("tokenizer.ggml.bos_token_id", Value::U32(END)),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// A GGUF file without weights.
pub fn write_metadata(path: &Path, metadata: &[(String, Value)]) {
    let none: &[TensorPlan] = &[];
    write_gguf(
        path,
        metadata,
        none,
        |_| unreachable!("there are no tensors"),
        WriteOptions::default(),
        &mut |_| (),
    )
    .expect("the file can be written");
}
