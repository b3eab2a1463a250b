//! One running conversation: a model, a backend, and the keys and values of the tokens so far.
//!
//! A session is told what the cache should hold and computes only what is missing: the system
//! prompt and history of a chat cost prefill once.

use crate::EngineError;
use crate::generate::WhenFull;
use alti_models::{Adapter, Llama, Step, memory};
use alti_tensor::{Backend, CacheLayout, KvDType, RowPlan, Span};
use std::sync::Arc;

/// How a session uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Tokens of context, prompt and answer together.
    pub context: usize,
    /// Tokens computed in one step of prefill.
    pub prefill_chunk: usize,
    /// How keys and values are stored.
    pub kv_dtype: KvDType,
}

/// What came of making room in a full context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Tokens were forgotten: there is room.
    Made,
    /// The context stays full: it is to, or all of it is to be kept.
    Refused,
    /// It was ended while the rest was computed again; the context holds what was computed.
    Cancelled,
}

/// A model in use by one sequence.
pub struct Session<B: Backend> {
    backend: B,
    model: Arc<Llama<B::Weight>>,
    adapter: Option<Arc<Adapter<B::Weight>>>,
    cache: B::Cache,
    settings: SessionSettings,
    layout: CacheLayout,
    /// The tokens whose keys and values are in the cache, by position.
    tokens: Vec<u32>,
    logits: Vec<B::Element>,
}

impl<B: Backend> Session<B> {
    /// A session with nothing in its context.
    ///
    /// # Errors
    /// When there is no memory for the context's keys and values.
    pub fn new(
        backend: B,
        model: Arc<Llama<B::Weight>>,
        settings: SessionSettings,
    ) -> Result<Session<B>, EngineError> {
        let layout = memory::cache_layout(&model.config, settings.context, settings.kv_dtype);
        let cache = backend.cache(&layout)?;
        let (tokens, logits) = (Vec::new(), Vec::new());
        Ok(Session { backend, model, adapter: None, cache, settings, layout, tokens, logits })
    }

    /// The session with an adapter for all it computes, and nothing in its context.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<Arc<Adapter<B::Weight>>>) -> Session<B> {
        Session { adapter, tokens: Vec::new(), ..self }
    }

    /// The model.
    pub fn model(&self) -> &Llama<B::Weight> {
        &self.model
    }

    /// The tokens in the context, by position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of context in all.
    pub fn context(&self) -> usize {
        self.settings.context
    }

    /// Makes the context hold exactly `tokens` and returns the logits that follow the last one.
    /// What the context begins with already is not computed again. `progress` is told how many
    /// tokens are in, and may end the prefill by returning false; the context then holds what was
    /// computed, and the answer is `None`.
    ///
    /// # Errors
    /// When the tokens do not fit, are none or are not the model's, or the backend fails.
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<Option<&[B::Element]>, EngineError> {
        self.check(tokens)?;
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is always computed: its logits are the answer.
        self.tokens.truncate(common.min(tokens.len() - 1));
        while self.tokens.len() < tokens.len() {
            if !progress(self.tokens.len()) {
                return Ok(None);
            }
            let first = self.tokens.len();
            let chunk = &tokens[first..tokens.len().min(first + self.settings.prefill_chunk.max(1))];
            self.run(chunk, first + chunk.len() == tokens.len())?;
        }
        Ok(Some(&self.logits))
    }

    /// Appends one token and returns the logits that follow it.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn step(&mut self, token: u32) -> Result<&[B::Element], EngineError> {
        if self.tokens.len() >= self.settings.context {
            let (tokens, context) = (self.tokens.len() + 1, self.settings.context);
            return Err(EngineError::ContextFull { tokens, context });
        }
        self.check(&[token])?;
        self.run(&[token], true)?;
        Ok(&self.logits)
    }

    /// Makes room in a full context as `when_full` says. What remains is computed again at its new
    /// positions, which costs a prefill: `progress` hears of it and may end it, as there.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn shift(
        &mut self,
        when_full: WhenFull,
        progress: impl FnMut(usize) -> bool,
    ) -> Result<Shift, EngineError> {
        let WhenFull::Shift { keep } = when_full else { return Ok(Shift::Refused) };
        let keep = keep.min(self.tokens.len());
        let forgotten = (self.tokens.len() - keep).div_ceil(2);
        if forgotten == 0 {
            return Ok(Shift::Refused);
        }
        let mut tokens = self.tokens.clone();
        tokens.drain(keep..keep + forgotten);
        if tokens.is_empty() {
            self.tokens.clear();
            return Ok(Shift::Made);
        }
        Ok(match self.prefill(&tokens, progress)? {
            Some(_) => Shift::Made,
            None => Shift::Cancelled,
        })
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let (context, vocabulary) = (self.settings.context, self.model.config.vocabulary_size);
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if tokens.len() > context {
            return Err(EngineError::ContextFull { tokens: tokens.len(), context });
        }
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Computes tokens behind those in the context; the last one's logits only where wanted.
    fn run(&mut self, tokens: &[u32], wants_logits: bool) -> Result<(), EngineError> {
        let first = self.tokens.len();
        let span = Span::in_order(&self.layout, 0, first..first + tokens.len());
        let rows = RowPlan::new(vec![span.with_adapter(self.adapter.as_ref().map(|_| 0))]);
        let adapters = self.adapter.as_slice();
        let step = Step { tokens, rows: &rows, cache: Some(&self.cache), adapters };
        if wants_logits {
            let logits = self.model.logits(&mut self.backend, &step, &[tokens.len() - 1]);
            self.backend.fetch(&logits, &mut self.logits)?;
        } else {
            drop(self.model.hidden(&mut self.backend, &step, |_, _| ()));
            self.backend.submit()?;
        }
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}
