//! What the server asks of whoever knows where models are: the command line.

use super::{Inference, ModelFacts};
use crate::generate::fill_in_tokens;
use alti_text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A model in memory, with all that requests need of it.
#[derive(Clone)]
pub struct ServedModel {
    /// What is known of it.
    pub facts: ModelFacts,
    /// What computes.
    pub inference: Arc<dyn Inference>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, or why it has none that can be used.
    pub template: Result<ChatTemplate, String>,
    /// Sampler settings that the model names itself: they go before an API's defaults, and behind what a request says.
    pub sampling: Map<String, Value>,
    /// Its sizes, as in [`ModelCard::numbers`].
    pub numbers: Vec<(String, u64)>,
    /// Bytes it takes in memory.
    pub memory_bytes: u64,
}

impl ServedModel {
    /// What its files say of it, as far as it is known in memory.
    pub fn card(&self) -> ModelCard {
        ModelCard {
            template: self.template.as_ref().ok().map(|template| template.source().to_owned()),
            fills_in: fill_in_tokens(&self.tokenizer).is_some(),
            numbers: self.numbers.clone(),
        }
    }
}

impl std::fmt::Debug for ServedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServedModel").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Why a model was not loaded, listed or fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// There is no such model.
    #[error("the model `{0}` does not exist here")]
    NotFound(String),
    /// What was asked for cannot be done, and asking again will not help.
    #[error("{0}")]
    Refused(String),
    /// It broke.
    #[error("{0}")]
    Failed(String),
    /// Whoever asked went away.
    #[error("it was cancelled")]
    Cancelled,
}

/// How far a download is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done, in a few words.
    pub status: String,
    /// The file's digest, if it is known.
    pub digest: Option<String>,
    /// Bytes in all, if they are known.
    pub total: Option<u64>,
    /// Bytes that are there.
    pub completed: Option<u64>,
}

/// What a model's own files say of it, for who wants to look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// The source of its chat template, if it has one.
    pub template: Option<String>,
    /// Whether its vocabulary has tokens for filling in the middle of a text.
    pub fills_in: bool,
    /// Its sizes, under the names that GGUF files have for them: `llama.block_count`, `general.file_type`.
    pub numbers: Vec<(String, u64)>,
}

/// Whoever knows where models are. Every call may take long: they are made off the async threads.
pub trait ModelLoader: Send + Sync + 'static {
    /// The models that are there.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self) -> Result<Vec<ModelFacts>, LoadError>;

    /// What is known of the model of this name. The name in the facts is the one it is loaded under: several names may
    /// lead to one model.
    ///
    /// # Errors
    /// When there is none.
    fn find(&self, name: &str) -> Result<ModelFacts, LoadError>;

    /// What the files of the model of this name say of it; whoever does not read them knows nothing.
    ///
    /// # Errors
    /// When there is none, or its files cannot be read.
    fn card(&self, name: &str) -> Result<ModelCard, LoadError> {
        self.find(name).map(|_| ModelCard::default())
    }

    /// Loads it.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or does not fit in memory.
    fn load(&self, name: &str) -> Result<ServedModel, LoadError>;

    /// Fetches a model; `progress` returns whether somebody still waits for it.
    ///
    /// # Errors
    /// When there is none, or it cannot be fetched.
    fn pull(
        &self,
        name: &str,
        progress: &mut (dyn FnMut(PullProgress) -> bool + Send),
    ) -> Result<(), LoadError>;

    /// Removes a model from this machine.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    fn remove(&self, name: &str) -> Result<(), LoadError>;
}
