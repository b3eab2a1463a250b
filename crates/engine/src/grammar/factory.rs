//! Compiling: from a source, which may be hostile, to a grammar, within bounds of time, stack and memory.

use super::cache::Cache;
use super::watch::Watchdog;
use super::{Grammar, GrammarSource, gbnf, schema, vocabulary};
use crate::EngineError;
use alti_text::Tokenizer;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{JsonCompileOptions, Logger, ParserFactory, TokenParser};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// No source is longer, in bytes.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// No source has deeper brackets. (Every parser on the way descends into them.)
const MAX_DEPTH: usize = 400;
/// Stack of the thread that compiles: what a source of this depth can need, with room. Only what is touched is taken.
const COMPILE_STACK: usize = 256 << 20;
/// Characters of `llguidance`'s own message that are shown.
const LONGEST_MESSAGE: usize = 400;
/// White space between the parts of JSON: none, a space, or a line with its indentation. Without a bound, a model may
/// write nothing else until its answer is cut.
const JSON_WHITESPACE: &str = r"(\x20|\r?\n[\x20\t]{0,40})";

/// What `llguidance` may spend.
fn limits() -> ParserLimits {
    ParserLimits {
        // Building: with what it cannot measure, some 100 ms and 10 MB at the most.
        initial_lexer_fuel: 400_000,
        max_grammar_size: 200_000,
        // A mask: about 15 ms at the most.
        step_lexer_fuel: 200_000,
        step_max_items: 100_000,
        max_items_in_row: 2_000,
        // About 1 KB each.
        max_lexer_states: 50_000,
        // It would let the source decide how long compiling takes.
        precompute_large_lexemes: false,
        // Messages go to whoever sent the source; the parser's state says nothing to them.
        verbose_errors: false,
    }
}

/// Compiles the grammars for one model. Clones share the vocabulary and the cache of what was compiled.
#[derive(Clone)]
pub struct GrammarFactory {
    shared: Arc<Shared>,
}

struct Shared {
    parsers: ParserFactory,
    tokenizer: Tokenizer,
    cache: Arc<Cache>,
    watchdog: Arc<Watchdog>,
}

impl std::fmt::Debug for GrammarFactory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GrammarFactory({:?})", self.shared.tokenizer)
    }
}

impl GrammarFactory {
    /// Prepares a model's vocabulary; `vocabulary_size` is the number of its logits. Takes some 100 ms for a
    /// vocabulary of 128,000.
    ///
    /// # Errors
    /// If the vocabulary is beyond what masks can be computed for.
    pub fn new(tokenizer: &Tokenizer, vocabulary_size: usize) -> Result<GrammarFactory, EngineError> {
        let build = || {
            let environment = vocabulary::environment(tokenizer, vocabulary_size);
            let capabilities = InferenceCapabilities { ff_tokens: false, ..InferenceCapabilities::default() };
            let mut parsers = ParserFactory::new(
                &environment,
                capabilities,
                &llguidance::earley::SlicedBiasComputer::general_slices(),
            )?;
            parsers.quiet();
            *parsers.limits_mut() = limits();
            Ok(parsers)
        };
        let parsers = catch_unwind(AssertUnwindSafe(build))
            .map_err(|error| refused("the vocabulary", &error.to_string()))?;
        let shared = Shared {
            parsers,
            tokenizer: tokenizer.clone(),
            cache: Arc::default(),
            watchdog: Watchdog::start(),
        };
        Ok(GrammarFactory { shared: Arc::new(shared) })
    }

    /// A grammar at the beginning of a text.
    ///
    /// # Errors
    /// If the source is none, asks for what is not supported, or is too large.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, EngineError> {
        let cache = &self.shared.cache;
        let parser = match cache.take(source) {
            Some(parser) => parser,
            None => {
                let parser = self.parse(source)?;
                cache.insert(source, &parser);
                parser
            }
        };
        Ok(Grammar::new(parser, source.clone(), cache.clone(), self.shared.watchdog.clone()))
    }

    /// Compiles without the cache.
    fn parse(&self, source: &GrammarSource) -> Result<TokenParser, EngineError> {
        let kind = source.kind();
        check_size(source.text()).map_err(|problem| refused(kind, &problem))?;
        on_large_stack(|| self.parse_here(source)).map_err(|problem| refused(kind, &problem))
    }

    fn parse_here(&self, source: &GrammarSource) -> Result<TokenParser, String> {
        let grammar = self.top_level(source)?;
        let Shared { parsers, .. } = &*self.shared;
        let init = GrammarInit::Serialized(grammar);
        let capabilities = InferenceCapabilities::default();
        let mut parser = parsers
            .create_parser_from_init_ext(init, Logger::new(0, 0), capabilities, limits())
            .map_err(|error| plainly(&error.to_string(), source))?;
        if !parser.parser.grammar().lexer_spec().can_rollback() {
            return Err("`stop` and `max_tokens` of a rule are not supported: use `suffix` or `lazy`".into());
        }
        parser.start_without_prompt();
        Ok(parser)
    }

    fn top_level(&self, source: &GrammarSource) -> Result<TopLevelGrammar, String> {
        Ok(match source {
            GrammarSource::JsonObject => json_schema(json!({"type": "object"}), false),
            GrammarSource::JsonSchema(text) => {
                let schema = read_json(text)?;
                if let Some(found) = schema::uncheckable(&schema) {
                    return Err(told(&found));
                }
                json_schema(schema, false)
            }
            GrammarSource::LooseJsonSchema(text) => json_schema(read_json(text)?, true),
            GrammarSource::Regex(text) => TopLevelGrammar::from_regex(text),
            GrammarSource::Gbnf(text) => {
                let token = |text: &str| self.shared.tokenizer.id_of(text);
                TopLevelGrammar::from_lark(gbnf::to_lark(text, token)?)
            }
            GrammarSource::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }
}

/// Runs `compile` on a thread whose stack holds what a source can need.
fn on_large_stack<T: Send>(compile: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    let thread = std::thread::Builder::new().name("grammar".into()).stack_size(COMPILE_STACK);
    std::thread::scope(|scope| {
        let thread = thread
            .spawn_scoped(scope, compile)
            .map_err(|error| format!("there is no memory to compile it: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("compiling it failed".into()))
    })
}

fn read_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))
}

/// The compiler's message, in words for whoever wrote the schema where it has words for programmers.
fn plainly(message: &str, source: &GrammarSource) -> String {
    if !message.contains("oneOf constraints are not supported") {
        return message.to_owned();
    }
    // Which of several it was is not told: the first is where to begin.
    let first = read_json(source.text()).ok().and_then(|schema| schema::one_of(&schema));
    let place = first.map_or_else(String::new, |found| format!(" at `#/{}`", found.path.join("/")));
    format!("`oneOf`{place} whose branches overlap cannot be checked while a text is written: use `anyOf`")
}

/// What is said of a keyword that cannot be checked.
fn told(found: &schema::Uncheckable) -> String {
    let (keyword, place) = (&found.keyword, found.path.join("/"));
    format!("`{keyword}` at `#/{place}` cannot be checked while a text is written: leave it out")
}

fn json_schema(mut schema: Value, lenient: bool) -> TopLevelGrammar {
    schema::without_idle(&mut schema);
    if schema.is_object() {
        let whitespace_pattern = Some(JSON_WHITESPACE.to_owned());
        JsonCompileOptions { whitespace_pattern, lenient, ..JsonCompileOptions::default() }
            .apply_to(&mut schema);
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// Bounds what parsers that know no bounds are given.
fn check_size(text: &str) -> Result<(), String> {
    if text.len() > MAX_SOURCE_BYTES {
        return Err(format!("it is {} bytes long (limit {MAX_SOURCE_BYTES})", text.len()));
    }
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("its brackets are nested more than {MAX_DEPTH} deep"));
        }
    }
    Ok(())
}

/// An error of the first lines of `problem` that say something.
pub(super) fn refused(kind: &'static str, problem: &str) -> EngineError {
    let problem = problem.split("\n<").next().unwrap_or_default();
    let line = problem.replace(char::is_control, " ");
    let mut problem: String = line.trim().chars().take(LONGEST_MESSAGE).collect();
    if problem.len() < line.trim().len() {
        problem.push_str("...");
    }
    EngineError::Grammar { kind, problem }
}
