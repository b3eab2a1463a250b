//! Everything that can go wrong in the engine, in words a user can act on.

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] alti_tensor::BackendError),
    /// More tokens than the context holds.
    #[error("{tokens} tokens do not fit a context of {context}: shorten the prompt or enlarge the context")]
    ContextFull {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens there is room for.
        context: usize,
    },
    /// An adapter that cannot be loaded.
    #[error("the adapter cannot be loaded: {0}")]
    Adapter(#[from] alti_models::ModelError),
    /// No adapter has this name.
    #[error("there is no adapter `{name}`: {loaded}")]
    UnknownAdapter {
        /// As given.
        name: String,
        /// What there is, for the message.
        loaded: String,
    },
    /// Another adapter has this name.
    #[error("there is an adapter `{name}` already: drop it first, or choose another name")]
    AdapterExists {
        /// The name.
        name: String,
    },
    /// The job ended before there was anything to tell of it.
    #[error("the request ended ({reason}) before there was a result")]
    Ended {
        /// Why, in a word.
        reason: &'static str,
        /// What it took until then.
        usage: crate::serving::Usage,
    },
    /// A file of saved prefixes that could not be written, or cannot be used.
    #[error("{}: {what}; what is not saved is computed again, so the file can be deleted", path.display())]
    Prefixes {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A slot whose text is not there (any more).
    #[error(
        "slot {slot} holds nothing: no answer was asked for in this slot with the prefix cache on, it was of a few \
         tokens only, or what was computed had to make room"
    )]
    EmptySlot {
        /// Its number.
        slot: u32,
    },
    /// A saved text for which there is no room now.
    #[error(
        "there is no room for the text of slot {slot}: the answers in the works use all of the cache; try again"
    )]
    NoRoomForSlot {
        /// The slot's number.
        slot: u32,
    },
    /// The engine's thread is gone.
    #[error("the engine has stopped: {what}")]
    Stopped {
        /// Why.
        what: String,
    },
    /// A draft model that cannot guess for this model.
    #[error(
        "the draft model has a vocabulary of {found} tokens, the model one of {expected}: they must be the same"
    )]
    DraftVocabulary {
        /// The draft model's.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// A prompt without tokens.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token the model does not have.
    #[error(
        "token {token} is not in the model's vocabulary of {vocabulary}: the tokenizer is another model's"
    )]
    UnknownToken {
        /// The id.
        token: u32,
        /// Tokens in the vocabulary.
        vocabulary: usize,
    },
    /// No setting has this name.
    #[error("there is no sampler setting `{name}`; the settings are {known}")]
    UnknownSetting {
        /// As given.
        name: String,
        /// All names, for the message.
        known: String,
    },
    /// A setting's value cannot be read or is out of range.
    #[error("sampler setting `{name}` is {value}: it must be {allowed}")]
    InvalidSetting {
        /// Name of the setting.
        name: &'static str,
        /// The value, as given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The model put out as many logits as the sampler was not made for.
    #[error("the sampler is for {expected} tokens but got {actual} logits at position {position}")]
    LogitCount {
        /// Size of the vocabulary.
        expected: usize,
        /// Length of the row.
        actual: usize,
        /// Absolute position of the token to be drawn.
        position: u64,
    },
    /// The model put out a logit that is NaN or plus infinity.
    #[error(
        "the model's logit for token {token} at position {position} is {value}: the weights are damaged \
         or a value overflowed"
    )]
    BadLogit {
        /// Absolute position of the token to be drawn.
        position: u64,
        /// Token id.
        token: usize,
        /// The logit.
        value: f32,
    },
    /// A constraint on the output that is none, asks for what is not supported, or became too expensive.
    #[error("{kind}: {problem}")]
    Grammar {
        /// What kind of constraint.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Mask, bans and minus-infinite logits together forbid every token.
    #[error(
        "no token is allowed at position {position}: the output constraint, `logit_bias` and the \
         model's own minus-infinite logits forbid them all"
    )]
    NoTokenAllowed {
        /// Absolute position of the token to be drawn.
        position: u64,
    },
}
