//! The tokenizer and the chat template that belong to a checkpoint, whichever format it is in.

use std::path::Path;

use alti_formats::gguf::GgufFile;
use alti_formats::tokenizer::{MAX_SETTINGS, TokenizerFile, read_file, read_settings, read_settings_text};
use alti_formats::{Checkpoint, RopeScaling};
use serde_json::Value;

use crate::error::{Result, TextError};
use crate::sources::gguf::GgufTokenizer;
use crate::sources::{hugging_face, meta};
use crate::template::ChatTemplate;
use crate::template::builtin::{BuiltinTemplate, ModelTraits};
use crate::tokenizer::{Definition, Tokenizer};

impl Tokenizer {
    /// The tokenizer of `checkpoint`: GGUF metadata, or the tokenizer files beside the weights.
    ///
    /// # Errors
    /// No tokenizer, an unsupported or a damaged one.
    pub fn for_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        Self::of_checkpoint(checkpoint).map_err(|error| error.of_model(checkpoint.path()))
    }

    fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let mut definition = match checkpoint.gguf() {
            Some(metadata) => GgufTokenizer::read(metadata)?
                .ok_or_else(|| TextError::no_metadata(checkpoint.path()))?
                .definition()?,
            None => folder_definition(checkpoint.directory())?,
        };
        let config = checkpoint.config();
        definition.roles.bos = definition.roles.bos.or(config.bos);
        definition.roles.stops.extend(&config.eos);
        Self::new(definition)
    }

    /// The tokenizer of the model at `path`, or of the tokenizer file there, without a look at the weights: a GGUF
    /// file (which need not have any), a model's folder or one of its files, `tokenizer.json`, or Meta's
    /// `tokenizer.model`.
    ///
    /// # Errors
    /// No tokenizer, an unsupported or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::from_folder(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => {
                let file = GgufFile::open(path)?;
                let missing = || TextError::no_metadata(path);
                let fields = GgufTokenizer::read(file.metadata())?.ok_or_else(missing)?;
                fields.build().map_err(|error| error.of_model(path))
            }
            Some("model") => Self::from_meta_file(path),
            _ => Self::from_folder(path.parent().unwrap_or(Path::new(""))).map_err(|error| match error {
                TextError::Missing { expected, .. } => {
                    TextError::Missing { place: path.display().to_string(), expected }
                }
                other => other,
            }),
        }
    }

    /// The tokenizer whose files are in `folder`: `tokenizer.json`, or Meta's `tokenizer.model`.
    ///
    /// # Errors
    /// No tokenizer, an unsupported or a damaged one.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        folder_definition(folder).and_then(Self::new).map_err(|error| error.of_model(folder))
    }

    /// The tokenizer in Meta's `tokenizer.model` at `path`: tiktoken ranks or a SentencePiece model.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or has as many ranks as no model of Meta's.
    pub fn from_meta_file(path: &Path) -> Result<Self> {
        Self::from_meta(path, &read_file(path)?).map_err(|error| error.of_model(path))
    }

    /// As [`Tokenizer::from_meta_file`], from the file's content; `path` is for messages only.
    ///
    /// # Errors
    /// As there.
    pub fn from_meta(path: &Path, file: &[u8]) -> Result<Self> {
        Self::new(meta::definition(path, file)?)
    }

    /// A tokenizer of tiktoken `ranks` (a token's place is its rank and its id) with the control tokens that follow
    /// them, which also tell Llama 4's way of splitting text (`<|header_start|>`) from Llama 3's.
    ///
    /// # Errors
    /// A single byte without a rank.
    pub fn from_ranks(ranks: &[Vec<u8>], control_tokens: &[String]) -> Result<Self> {
        Self::new(meta::ranked(ranks, control_tokens)?)
    }

    /// The tokenizer a `tokenizer.json` describes; `config` is the text of its `tokenizer_config.json`, if any.
    ///
    /// # Errors
    /// Text that is not such a file, or describes a tokenizer of another kind than the Llama family's.
    pub fn from_hugging_face(tokenizer_json: &str, config: Option<&str>) -> Result<Self> {
        let configs = config.map(|text| parse_json(Path::new("tokenizer_config.json"), text)).transpose()?;
        Self::new(hugging_face::definition(tokenizer_json.as_bytes(), configs.as_slice())?)
    }
}

fn folder_definition(folder: &Path) -> Result<Definition> {
    match TokenizerFile::find(folder) {
        Some(TokenizerFile::HuggingFace(path)) => {
            let names = ["tokenizer_config.json", "special_tokens_map.json"];
            let configs = names.iter().filter_map(|name| read_settings(&folder.join(name)).transpose());
            let configs = configs.collect::<std::result::Result<Vec<_>, _>>()?;
            hugging_face::definition(&read_file(&path)?, &configs)
        }
        Some(TokenizerFile::Meta(path)) => meta::definition(&path, &read_file(&path)?),
        None => Err(TextError::Missing {
            place: folder.display().to_string(),
            expected: "tokenizer.json or tokenizer.model",
        }),
    }
}

impl ChatTemplate {
    /// The chat template of `checkpoint`: its own, or the built-in one of its family.
    ///
    /// # Errors
    /// A template that does not parse; no template, and a vocabulary without any known format's tokens.
    pub fn for_checkpoint(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        Self::of_checkpoint(checkpoint, tokenizer).map_err(|error| error.of_model(checkpoint.path()))
    }

    fn of_checkpoint(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        let metadata = checkpoint.gguf();
        let field = |key: &str| metadata.map_or(Ok(None), |metadata| metadata.string(key));
        let own = match metadata {
            Some(_) => field("tokenizer.chat_template")?.map(str::to_owned),
            None => folder_template(checkpoint.directory())?,
        };
        if let Some(source) = own {
            return Self::new(&source, tokenizer);
        }
        let path = checkpoint.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let config = checkpoint.config();
        let traits = ModelTraits {
            name: field("general.name")?.unwrap_or(&file),
            scaled_rope: config.rope.scaling != RopeScaling::None,
            tied_embeddings: config.tied_embeddings,
        };
        let builtin = BuiltinTemplate::for_model(tokenizer, traits).ok_or_else(|| TextError::NoTemplate {
            place: path.display().to_string(),
            what: match traits.is_guard() {
                true => "Llama Guard 1 and 2, whose policies are their own",
                false => "a vocabulary that is not the Llama family's",
            },
        })?;
        builtin.compile(tokenizer)
    }
}

/// The template beside a model's weights: a file of its own, or a field of a configuration file.
fn folder_template(folder: &Path) -> Result<Option<String>> {
    if let Some(source) = read_settings_text(&folder.join("chat_template.jinja"))? {
        return Ok(Some(source));
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let config = read_settings(&folder.join(name))?.unwrap_or_default();
        let template = match &config["chat_template"] {
            Value::Array(named) => {
                named.iter().find(|entry| entry["name"] == "default").map(|it| &it["template"])
            }
            other => Some(other),
        };
        if let Some(source) = template.and_then(Value::as_str) {
            return Ok(Some(source.to_owned()));
        }
    }
    Ok(None)
}

fn parse_json(path: &Path, text: &str) -> Result<Value> {
    if text.len() as u64 > MAX_SETTINGS {
        let problem = format!("{} bytes long (limit {MAX_SETTINGS})", text.len());
        return Err(TextError::invalid(path.display().to_string(), problem));
    }
    serde_json::from_str(text)
        .map_err(|error| TextError::invalid(path.display().to_string(), error.to_string()))
}
