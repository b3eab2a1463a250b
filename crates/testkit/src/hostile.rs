//! What every hostile input is put through: opened as a user's file would be, everything in it
//! loaded, and whatever came of it used. The fuzz targets and the replay of their seeds share
//! these functions, so that an input that a fuzzer found is tested for ever by copying it into
//! `fuzz/seeds/`.
//!
//! Formats of several files are fuzzed as one input: the files one after the other with
//! [`SEPARATOR`] between them, in the order in which each target names them.

use alti_formats::tokenizer::Vocabulary;
use alti_formats::{Adapter, Checkpoint};
use alti_text::{ChatTemplate, Conversation, Message, Specials, Tokenizer};
use std::io::Write as _;
use std::path::Path;

/// Stands between the files of one input.
pub const SEPARATOR: &[u8] = b"\n--- next file ---\n";

/// Texts that tokenizers stumble over: several scripts, control tokens, spaces, a broken word.
const TEXT: &str = "Hello <s>  Wörld\r\n\u{301}😀 <|eot_id|> 12345 don't\u{0}\t";

/// One kind of hostile input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the fuzz target and of the folder of its seeds.
    pub name: &'static str,
    /// The files that an input becomes; the last ones may be absent.
    files: fn(parts: usize) -> &'static [&'static str],
    /// How an input is changed before it is cut into files.
    wrap: fn(&[u8]) -> Vec<u8>,
    /// Uses the files in a folder as a user would.
    open: fn(&Path) -> Result<(), String>,
}

/// Every kind.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "gguf",
        files: |parts| match parts {
            1 => &["model.gguf"],
            _ => &["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"],
        },
        wrap: <[u8]>::to_vec,
        open: |folder| match folder.join("model.gguf") {
            whole if whole.is_file() => checkpoint(&whole),
            _ => checkpoint(&folder.join("model-00001-of-00002.gguf")),
        },
    },
    Target {
        name: "hugging_face",
        files: |_| &["config.json", "model.safetensors", "model.safetensors.index.json"],
        wrap: <[u8]>::to_vec,
        open: checkpoint,
    },
    Target {
        name: "meta",
        files: |_| &["params.json", "consolidated.00.pth", "consolidated.01.pth", "consolidated.02.pth"],
        wrap: <[u8]>::to_vec,
        open: checkpoint,
    },
    Target {
        name: "pickle",
        files: |_| &["params.json", "consolidated.00.pth"],
        wrap: in_an_archive,
        open: checkpoint,
    },
    Target {
        name: "adapter",
        files: |parts| match parts {
            1 => &["adapter.gguf"],
            _ => &["adapter_config.json", "adapter_model.safetensors"],
        },
        wrap: <[u8]>::to_vec,
        open: adapter,
    },
    Target {
        name: "tokenizer_json",
        files: |_| &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"],
        wrap: <[u8]>::to_vec,
        open: tokenizer,
    },
    Target {
        name: "tokenizer_model",
        files: |_| &["tokenizer.model"],
        wrap: <[u8]>::to_vec,
        open: tokenizer,
    },
    Target {
        name: "chat_template",
        files: |_| &["chat_template.jinja"],
        wrap: <[u8]>::to_vec,
        open: chat_template,
    },
];

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// What a fuzz target does: uses `input` as the target `name` does, in a folder of its own.
///
/// # Panics
/// As [`Target::open`]; when there is no such target or no room for temporary files.
pub fn survive(name: &str, input: &[u8]) {
    let target = find(name).unwrap_or_else(|| panic!("there is no target {name}"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    target.write(input, folder.path());
    let _refused_or_not = target.open(folder.path());
}

impl Target {
    /// Writes `input` into `folder` as files, which replace what an earlier input left there.
    /// Returns how many bytes they have together.
    ///
    /// # Panics
    /// When the folder cannot be written to.
    pub fn write(self, input: &[u8], folder: &Path) -> u64 {
        let input = (self.wrap)(input);
        let parts = split(&input);
        for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
            std::fs::remove_file(entry.path()).expect("a file can be removed");
        }
        let mut bytes = 0;
        for (name, part) in (self.files)(parts.len()).iter().zip(parts) {
            std::fs::write(folder.join(name), part).expect("a file can be written");
            bytes += part.len() as u64;
        }
        bytes
    }

    /// Uses the files in `folder`; a refusal is returned.
    ///
    /// # Errors
    /// The message that a user would read.
    ///
    /// # Panics
    /// When anything used panics, which is what is looked for; and when the message is longer than
    /// a line or does not name a file in the folder.
    pub fn open(self, folder: &Path) -> Result<(), String> {
        let outcome = (self.open)(folder);
        if let Err(message) = &outcome {
            assert!(!message.contains(['\n', '\r']), "more than a line: {message:?}");
            assert!(message.len() < 1500, "{} bytes: {message}", message.len());
            assert!(message.contains(&*folder.to_string_lossy()), "names no file: {message}");
        }
        outcome
    }
}

/// The files of an input.
fn split(input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A whole model: every weight, the tokenizers that running and converting read, the template.
fn checkpoint(path: &Path) -> Result<(), String> {
    let model = Checkpoint::open(path).map_err(shown)?;
    for weight in model.weights() {
        model.load(&weight.name).map_err(shown)?;
    }
    Vocabulary::of(&model).map_err(shown)?;
    let tokenizer = Tokenizer::for_checkpoint(&model).map_err(shown)?;
    use_tokenizer(&tokenizer);
    let template = ChatTemplate::for_checkpoint(&model, &tokenizer).map_err(shown)?;
    use_template(&template, &tokenizer).map_err(|error| format!("{}: {error}", path.display()))
}

/// A whole adapter, for a tiny model.
fn adapter(folder: &Path) -> Result<(), String> {
    let model = Checkpoint::open(&crate::golden("llama3-gqa")).map_err(shown)?;
    let file = folder.join("adapter.gguf");
    let path = if file.is_file() { &file } else { folder };
    let adapter = Adapter::open(path, model.config()).map_err(shown)?;
    for matrix in adapter.matrices() {
        let weights = adapter.load(matrix).map_err(shown)?;
        let [out, inputs] = matrix.shape;
        assert_eq!(weights.down.shape, [matrix.rank, inputs], "A is of the model's shape");
        assert_eq!(weights.up.shape, [out, matrix.rank], "B is of the model's shape");
    }
    adapter.fingerprint().map_err(shown)?;
    Ok(())
}

fn tokenizer(folder: &Path) -> Result<(), String> {
    let tokenizer = Tokenizer::from_folder(folder).map_err(shown)?;
    use_tokenizer(&tokenizer);
    Ok(())
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    for specials in [Specials::AsText, Specials::Parse] {
        let tokens = tokenizer.encode(TEXT, specials);
        tokenizer.decode(&tokens);
        tokenizer.decode_spelling_specials(&tokens);
    }
    let size = u32::try_from(tokenizer.vocabulary_size()).expect("a vocabulary of 32-bit ids");
    for token in [0, size / 2, size.saturating_sub(1), size, u32::MAX] {
        tokenizer.decode(&[token]);
        tokenizer.token_text(token);
    }
}

fn chat_template(folder: &Path) -> Result<(), String> {
    let path = folder.join("chat_template.jinja");
    let named = |problem: String| format!("{}: {problem}", path.display());
    let source = std::fs::read(&path).map_err(|error| named(shown(error)))?;
    let source = String::from_utf8(source).map_err(|error| named(shown(error)))?;
    let ranks: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let controls = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"].map(str::to_owned);
    let tokenizer = Tokenizer::from_ranks(&ranks, &controls).map_err(shown)?;
    let template = ChatTemplate::new(&source, &tokenizer).map_err(|error| named(shown(error)))?;
    use_template(&template, &tokenizer).map_err(named)
}

/// A conversation with everything that conversations have.
fn use_template(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<(), String> {
    let call = serde_json::json!({"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
    let asks = Message { tool_calls: vec![call], ..Message::text("assistant", "") };
    let messages = vec![
        Message::text("system", "Be brief."),
        Message::text("user", TEXT),
        asks,
        Message::text("tool", "2"),
    ];
    let tool = serde_json::json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    let conversation = Conversation { tools: vec![tool], ..Conversation::new(messages) };
    template.render(&conversation).map_err(shown)?.tokens(tokenizer);
    Ok(())
}

/// The program of a pickle as `torch.save` keeps it: in an archive, beside the storages `0` to
/// `3` of 4096 zeros each, and with the parameters of a model of one layer.
fn in_an_archive(program: &[u8]) -> Vec<u8> {
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let storages = ["0", "1", "2", "3"].map(|key| (format!("m/data/{key}"), vec![0; 4096]));
    for (name, bytes) in [("m/data.pkl".to_owned(), program.to_vec())].into_iter().chain(storages) {
        archive.start_file(name, options).expect("archives in memory can be written");
        archive.write_all(&bytes).expect("archives in memory can be written");
    }
    let archive = archive.finish().expect("archives in memory can be written").into_inner();
    let parameters = br#"{"dim": 4, "n_layers": 1, "n_heads": 1, "vocab_size": -1}"#;
    [&parameters[..], SEPARATOR, &archive].concat()
}
