//! The crate's one error type. Every message says what is wrong, where (a field, a line, a token) and, where the
//! reader can do something, what: these lines reach the user of `alti` unchanged.

/// What can go wrong when a tokenizer or a chat template is loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A tokenizer file or its metadata contradicts itself or exceeds a limit.
    #[error("tokenizer: {place}: {problem}")]
    Invalid {
        /// The field, file line or token that is wrong.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer is of a kind this crate does not implement.
    #[error("tokenizer: {place}: {found:?} is not supported (supported: {supported})")]
    Unsupported {
        /// The field that names the kind.
        place: String,
        /// What it says.
        found: String,
        /// The kinds that work.
        supported: &'static str,
    },
    /// A checkpoint has no tokenizer at all.
    #[error("no tokenizer found in {place}: expected {expected}")]
    Missing {
        /// Where we looked.
        place: String,
        /// What would have been a tokenizer.
        expected: &'static str,
    },
    /// A model has no chat template of its own, and none of the built-in ones is its.
    #[error(
        "{place}: has no chat template, and none is built in for {what}: put its chat_template.jinja beside it"
    )]
    NoTemplate {
        /// The model.
        place: String,
        /// What it seems to be.
        what: &'static str,
    },
    /// A tokenizer's file could not be read, or metadata is not of the type it should be.
    #[error(transparent)]
    Metadata(#[from] alti_formats::FormatError),
    /// What is wrong with a tokenizer or a template of a model, and which model that is.
    #[error("{}: {source}", path.display())]
    In {
        /// The model's file or folder.
        path: std::path::PathBuf,
        /// What is wrong.
        source: Box<TextError>,
    },
    /// A chat template does not parse.
    #[error("chat template: line {line}: {problem}")]
    TemplateSyntax {
        /// One-based line of the template.
        line: usize,
        /// What the parser expected.
        problem: String,
    },
    /// A chat template failed, or refused the conversation (`raise_exception`).
    #[error("chat template{}: {problem}", at_line(*.line))]
    TemplateRender {
        /// One-based line of the template, where known.
        line: Option<usize>,
        /// The template's own message, or the engine's.
        problem: String,
    },
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(": line {line}")).unwrap_or_default()
}

impl TextError {
    /// A tokenizer that contradicts itself at `place`.
    pub(crate) fn invalid(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { place: place.into(), problem: problem.into() }
    }

    /// The same, of the model at `path`: for errors that do not name a file themselves.
    pub(crate) fn of_model(self, path: &std::path::Path) -> Self {
        match self {
            Self::Invalid { ref place, .. } if place.starts_with(&*path.to_string_lossy()) => self,
            Self::Metadata(_) | Self::Missing { .. } | Self::NoTemplate { .. } | Self::In { .. } => self,
            other => Self::In { path: path.to_owned(), source: Box::new(other) },
        }
    }

    /// A GGUF file without a tokenizer.
    pub(crate) fn no_metadata(path: &std::path::Path) -> Self {
        Self::Missing { place: path.display().to_string(), expected: "tokenizer.ggml.* metadata" }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, TextError>;
