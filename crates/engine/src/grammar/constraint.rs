//! A grammar at work: it follows one answer, token by token.

use super::GrammarSource;
use super::cache::Cache;
use super::factory::refused;
use super::watch::{Watch, Watchdog};
use crate::EngineError;
use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{SimpleVob, TokTrie};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Which tokens may continue one answer. A clone goes on from where the original is.
pub struct Grammar {
    /// None only while it is dropped.
    parser: Option<TokenParser>,
    source: GrammarSource,
    /// The cache that the parser came from; a clone's goes nowhere.
    cache: Option<Arc<Cache>>,
    watchdog: Arc<Watchdog>,
    watch: Arc<Watch>,
    mask: SimpleVob,
    /// End-of-answer tokens accepted after the grammar was finished anyway.
    ends: usize,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Grammar({}, {} tokens)",
            self.source.kind(),
            self.parser().num_tokens() + self.ends
        )
    }
}

impl Clone for Grammar {
    fn clone(&self) -> Self {
        let mut parser = self.parser().clone();
        Self {
            watch: self.watchdog.watch(parser.enable_cancellation()),
            watchdog: self.watchdog.clone(),
            parser: Some(parser),
            source: self.source.clone(),
            cache: None,
            mask: self.mask.clone(),
            ends: self.ends,
        }
    }
}

impl Drop for Grammar {
    fn drop(&mut self) {
        if let (Some(cache), Some(parser)) = (self.cache.take(), self.parser.take())
            && !std::thread::panicking()
        {
            cache.give_back(&self.source, parser);
        }
    }
}

impl Grammar {
    pub(super) fn new(
        mut parser: TokenParser,
        source: GrammarSource,
        cache: Arc<Cache>,
        watchdog: Arc<Watchdog>,
    ) -> Self {
        let watch = watchdog.watch(parser.enable_cancellation());
        let (parser, cache) = (Some(parser), Some(cache));
        Self { parser, source, cache, watchdog, watch, mask: SimpleVob::new(), ends: 0 }
    }

    fn parser(&self) -> &TokenParser {
        self.parser.as_ref().expect("a parser is there until the grammar is dropped")
    }

    fn trie(&self) -> &TokTrie {
        self.parser().token_env.tok_trie()
    }

    /// Runs `work` on the parser; a bug of the parser ends this answer and nothing else.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut TokenParser) -> anyhow::Result<T>,
    ) -> Result<T, EngineError> {
        let parser = self.parser.as_mut().expect("a parser is there until the grammar is dropped");
        let result = self.watch.during(|| catch_unwind(AssertUnwindSafe(|| work(parser))));
        let result =
            if self.watch.is_cancelled() { Err(anyhow::anyhow!("it takes too long")) } else { result };
        result.map_err(|error| {
            // What failed once is not used again.
            self.cache = None;
            refused(self.source.kind(), &error.to_string())
        })
    }

    /// The tokens that may come next: a set of bits, 32 tokens a word and the lowest first, as
    /// [`Sampler::sample`](crate::sampling::Sampler::sample) takes it. Where the text may end, the end-of-answer tokens
    /// are among them; where it has ended, they are all there is.
    ///
    /// # Errors
    /// If computing it takes more than a grammar may take.
    pub fn mask(&mut self) -> Result<&[u32], EngineError> {
        self.mask = if self.is_finished() {
            self.trie().eos_token_set()
        } else {
            self.with(TokenParser::compute_mask)?
        };
        Ok(self.mask.as_slice())
    }

    /// Takes note of the answer's next token.
    ///
    /// # Errors
    /// If the grammar does not allow it; the grammar is of no further use then.
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if self.is_finished() && self.trie().eos_tokens().contains(&token) {
            self.ends += 1;
            return Ok(());
        }
        self.with(|parser| {
            let backtracked = parser.consume_token(token)?;
            anyhow::ensure!(backtracked == 0, "it takes back text that was written");
            parser.check_stop().map(|_| ())
        })
    }

    /// Takes the last `tokens` accepted tokens back.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn rollback(&mut self, tokens: usize) -> Result<(), EngineError> {
        let ends = tokens.min(self.ends);
        self.ends -= ends;
        self.with(|parser| parser.rollback(tokens - ends))
    }

    /// Tokens that are bound to come next, because the grammar leaves no other text. They may be taken for a draft; each
    /// is what [`Grammar::mask`] allows after those before it, unless the vocabulary spells the text in several ways.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_finished() {
            return Vec::new();
        }
        let forced = self.with(|parser| {
            if parser.token_env.tokenize_is_canonical() {
                return Ok(parser.compute_ff_tokens());
            }
            let bytes = parser.force_bytes();
            let mut tokens = parser.token_env.tokenize_bytes(&bytes);
            // What comes after the forced text may be part of the last token.
            tokens.pop();
            Ok(tokens)
        });
        forced.unwrap_or_default()
    }

    /// Whether the text is complete and nothing can follow.
    pub fn is_finished(&self) -> bool {
        matches!(self.parser().stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }
}
