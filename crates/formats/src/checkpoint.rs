//! One view of a model on disk, whichever format it is in: its configuration and its weights under
//! canonical names in the canonical layout.

use crate::FormatError;
use crate::config::{Architecture, ModelConfig};
use crate::gguf::{self, GgufMetadata, SplitGguf};
use crate::hugging_face::{self, SafetensorsStore};
use crate::layout::{FilePart, FileTensor, hugging_face_tensors};
use crate::meta::{self, MetaStore};
use crate::names::{Part, WeightName};
use crate::placement::gather_bytes;
use alti_tensor::{DType, WeightData};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The formats a model can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One GGUF file, or a split set.
    Gguf,
    /// safetensors files with a `config.json`.
    HuggingFace,
    /// `params.json` with `consolidated.NN.pth` files.
    Meta,
}

impl Format {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gguf => "GGUF",
            Self::HuggingFace => "Hugging Face",
            Self::Meta => "Meta",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a checkpoint says about one weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Canonical name.
    pub name: WeightName,
    /// Encoding in the file.
    pub dtype: DType,
    /// Shape in the canonical layout.
    pub shape: Vec<usize>,
}

/// An opened model.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    directory: PathBuf,
    config: ModelConfig,
    weights: Vec<WeightInfo>,
    index: HashMap<WeightName, usize>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Gguf(SplitGguf),
    HuggingFace { store: SafetensorsStore, places: HashMap<WeightName, (String, FilePart)> },
    Meta(MetaStore),
}

impl Checkpoint {
    /// Opens a `.gguf` file (any of a split set), a `.safetensors` file or `*.index.json` with its
    /// `config.json` beside it, or a folder of either kind or of Meta's.
    ///
    /// # Errors
    /// When there is no model at `path`, it is damaged, of an unsupported architecture, or weights
    /// are missing or of other shapes than the configuration says.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let kind = std::fs::metadata(path).map_err(|e| FormatError::io(path, "open", e))?;
        if kind.is_dir() {
            return Self::open_folder(path);
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => Self::open_gguf(path, folder),
            Some("safetensors") => Self::open_hugging_face(path, folder),
            Some("json") if path.to_string_lossy().ends_with(".index.json") => {
                Self::open_hugging_face(path, folder)
            }
            _ => Err(FormatError::unsupported(
                path,
                "is not a model: a .gguf or .safetensors file, or a folder with config.json or params.json, is",
            )),
        }
    }

    fn open_folder(folder: &Path) -> Result<Self, FormatError> {
        if folder.join("config.json").is_file() {
            return Self::open_hugging_face(folder, folder.to_owned());
        }
        if folder.join("params.json").is_file() {
            return Self::open_meta(folder);
        }
        Err(FormatError::unsupported(
            folder,
            "has neither config.json (Hugging Face) nor params.json (Meta); name a .gguf file itself",
        ))
    }

    fn open_gguf(path: &Path, directory: PathBuf) -> Result<Self, FormatError> {
        let file = SplitGguf::open(path)?;
        let config = gguf::read_config(&file)?;
        let mut weights = Vec::new();
        for (name, shape) in config.weight_shapes() {
            let spelled = name.gguf();
            let Some((tensor, _)) = file.tensor(&spelled) else {
                return Err(FormatError::tensor(path, &spelled, "is missing"));
            };
            check_shape(path, &spelled, &tensor.shape, &shape)?;
            let Some(dtype) = tensor.dtype else {
                let kind = gguf::type_name(tensor.type_id);
                return Err(FormatError::tensor(
                    path,
                    &spelled,
                    format!("is of type {kind}, which is not read"),
                ));
            };
            weights.push(WeightInfo { name, dtype, shape });
        }
        refuse_strangers(path, file.tensors().map(|tensor| tensor.name.as_str()), |name| {
            name == gguf::ROPE_FREQS || WeightName::from_gguf(name).is_some()
        })?;
        Ok(Self::new(path, directory, config, weights, Source::Gguf(file)))
    }

    fn open_hugging_face(path: &Path, directory: PathBuf) -> Result<Self, FormatError> {
        let config = hugging_face::read_config(&directory)?;
        let store = SafetensorsStore::open(path)?;
        let naming = HuggingFaceNaming::of(&store);
        let mut weights = Vec::new();
        let mut places = HashMap::new();
        for FileTensor { name, shape, parts } in hugging_face_tensors(&config) {
            let spelled = naming.spelled(&name);
            let Some(tensor) = store.tensor(&spelled) else {
                return Err(FormatError::tensor(path, &spelled, "is missing"));
            };
            check_shape(path, &spelled, tensor.shape, &shape)?;
            let Some(dtype) = tensor.dtype else {
                let problem = format!("is of type {}; F32, F16 and BF16 are read", tensor.dtype_name);
                return Err(FormatError::tensor(path, &spelled, problem));
            };
            for part in parts {
                weights.push(WeightInfo { name: part.weight, dtype, shape: part.shape.clone() });
                places.insert(part.weight, (spelled.clone(), part));
            }
        }
        let llama4 = config.architecture == Architecture::Llama4;
        refuse_strangers(path, store.names(), |name| {
            HuggingFaceNaming::is_not_of_the_text_model(name) || naming.is_weight(name, llama4)
        })?;
        Ok(Self::new(path, directory, config, weights, Source::HuggingFace { store, places }))
    }

    fn open_meta(folder: &Path) -> Result<Self, FormatError> {
        let store = MetaStore::open(folder)?;
        let config = meta::read_config(folder, &store)?;
        let mut weights = Vec::new();
        for (name, shape) in config.weight_shapes() {
            let dtype = store.check(&config, &name, &shape)?;
            weights.push(WeightInfo { name, dtype, shape });
        }
        refuse_strangers(folder, store.names(), |name| {
            let vision = name.starts_with("vision_embeddings.") || name.starts_with("vision_projection.");
            let derived = name == "rope.freqs" || name.ends_with("._extra_state");
            vision || derived || WeightName::from_meta(name).is_some()
        })?;
        Ok(Self::new(folder, folder.to_owned(), config, weights, Source::Meta(store)))
    }

    fn new(
        path: &Path,
        directory: PathBuf,
        config: ModelConfig,
        weights: Vec<WeightInfo>,
        source: Source,
    ) -> Self {
        let index = weights.iter().enumerate().map(|(at, weight)| (weight.name, at)).collect();
        Self { path: path.to_owned(), directory, config, weights, index, source }
    }

    /// The format it is in.
    pub fn format(&self) -> Format {
        match self.source {
            Source::Gguf(_) => Format::Gguf,
            Source::HuggingFace { .. } => Format::HuggingFace,
            Source::Meta(_) => Format::Meta,
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one file that all of the model is in, where it is a GGUF file that is not split.
    pub fn only_file(&self) -> Option<&Path> {
        match &self.source {
            Source::Gguf(file) => file.only_file(),
            Source::HuggingFace { .. } | Source::Meta(_) => None,
        }
    }

    /// The model's configuration, validated.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All weights in model order: exactly those of [`ModelConfig::weight_shapes`], of those
    /// shapes.
    pub fn weights(&self) -> &[WeightInfo] {
        &self.weights
    }

    /// What is known of a weight without loading it.
    pub fn info(&self, name: &WeightName) -> Option<&WeightInfo> {
        self.index.get(name).map(|&at| &self.weights[at])
    }

    /// Whether there is such a weight.
    pub fn contains(&self, name: &WeightName) -> bool {
        self.index.contains_key(name)
    }

    /// A weight in the canonical layout; borrowed from the map where the file has it so.
    ///
    /// # Errors
    /// When there is no such weight.
    pub fn load(&self, name: &WeightName) -> Result<WeightData<'_>, FormatError> {
        let missing = || FormatError::tensor(&self.path, &name.gguf(), "is not in this model");
        let info = &self.weights[*self.index.get(name).ok_or_else(missing)?];
        let bytes = match &self.source {
            Source::Gguf(file) => Cow::Borrowed(file.tensor(&name.gguf()).ok_or_else(missing)?.1),
            Source::HuggingFace { store, places } => {
                let (spelled, part) = places.get(name).ok_or_else(missing)?;
                let tensor = store.tensor(spelled).ok_or_else(missing)?;
                gather_bytes(&part.placement, &part.shape, info.dtype, tensor.bytes)
            }
            Source::Meta(store) => store.load(&self.config, name, &info.shape)?,
        };
        WeightData::new(info.dtype, info.shape.clone(), bytes)
            .map_err(|e| FormatError::tensor(&self.path, &name.gguf(), e.to_string()))
    }

    /// Gives back the memory of a weight that a backend has taken in: else a model would be in memory
    /// twice, as its file and as what was made of it.
    pub fn release(&self, name: &WeightName) {
        match &self.source {
            Source::Gguf(file) => file.release(&name.gguf()),
            Source::HuggingFace { store, places } => {
                // A tensor that several weights are parts of is read again for the others.
                match places.get(name) {
                    Some((spelled, part)) if part.is_whole() => store.release(spelled),
                    _ => {}
                }
            }
            // Pieces of a weight lie in several files, and the system drops them when it must.
            Source::Meta(_) => {}
        }
    }

    /// The metadata of a GGUF file: tokenizer, chat template, provenance.
    pub fn gguf(&self) -> Option<&GgufMetadata> {
        match &self.source {
            Source::Gguf(file) => Some(file.metadata()),
            Source::HuggingFace { .. } | Source::Meta(_) => None,
        }
    }

    /// The folder where tokenizer files are found.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn check_shape(path: &Path, name: &str, found: &[usize], expected: &[usize]) -> Result<(), FormatError> {
    if found == expected {
        return Ok(());
    }
    let problem = format!("has shape {found:?}, the configuration says {expected:?}");
    Err(FormatError::tensor(path, name, problem))
}

/// Refuses a model with tensors that would be ignored silently, such as biases.
fn refuse_strangers<'a>(
    path: &Path,
    names: impl Iterator<Item = &'a str>,
    known: impl Fn(&str) -> bool,
) -> Result<(), FormatError> {
    match names.filter(|name| !known(name)).min() {
        None => Ok(()),
        Some(name) => Err(FormatError::tensor(
            path,
            name,
            "is not part of any supported Llama model, so that the model would run without it",
        )),
    }
}

/// How a checkpoint prefixes the text model's tensors: vision models nest it.
struct HuggingFaceNaming {
    body: &'static str,
    head: &'static str,
}

impl HuggingFaceNaming {
    /// (prefix instead of `model.`, prefix of `lm_head`) in the order in which they are looked for.
    const KNOWN: [Self; 4] = [
        Self { body: "model.", head: "" },
        Self { body: "language_model.model.", head: "language_model." },
        Self { body: "model.language_model.", head: "" },
        Self { body: "", head: "" },
    ];

    fn of(store: &SafetensorsStore) -> &'static Self {
        let embedding = Part::TokenEmbedding.names().hugging_face;
        let known =
            Self::KNOWN.iter().find(|naming| store.tensor(&format!("{}{embedding}", naming.body)).is_some());
        known.unwrap_or(&Self::KNOWN[0])
    }

    fn spelled(&self, name: &str) -> String {
        match name.strip_prefix("model.") {
            Some(rest) => format!("{}{rest}", self.body),
            None => format!("{}{name}", self.head),
        }
    }

    /// Whether the tensor is a weight of this model: one spelled as its architecture spells it.
    fn is_weight(&self, name: &str, llama4: bool) -> bool {
        let body = name.strip_prefix(self.body).map(|rest| format!("model.{rest}"));
        let head = name.strip_prefix(self.head).map(str::to_owned);
        [body, head].into_iter().flatten().any(|plain| {
            WeightName::from_hugging_face(&plain).is_some_and(|weight| weight.hugging_face(llama4) == plain)
        })
    }

    /// Vision towers, and tables that the configuration gives anyway.
    fn is_not_of_the_text_model(name: &str) -> bool {
        let vision = [
            "vision_model.",
            "multi_modal_projector.",
            "model.vision_model.",
            "model.multi_modal_projector.",
        ];
        vision.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with("rotary_emb.inv_freq")
    }
}
