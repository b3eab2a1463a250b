//! Chat templates: a conversation becomes the exact text a model was tuned on. The model's own Jinja template is run
//! as Hugging Face `transformers` runs it; where a file carries none, [`BuiltinTemplate`] has one.
//!
//! A template renders one string, in which the words of a user and the control tokens of the template would be
//! indistinguishable. So every spelling of a control token inside a value is marked before rendering with a character
//! that occurs nowhere else ([`mark`]), and afterwards the marks say which characters are not to be trusted.

mod bounded;
pub(crate) mod builtin;
mod conversation;
mod environment;
mod json;
mod limits;
mod mark;
mod operators;
mod prompt;
mod source;
mod time;

pub use conversation::{Content, Conversation, Message};
pub use prompt::Prompt;
pub use time::DateTime;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, State};
use serde_json::Map;

use crate::error::{Result, TextError};
use crate::tokenizer::Tokenizer;
use mark::Marker;

/// No template is longer, in bytes (the longest in use have some 20 KB).
const MAX_SOURCE_BYTES: usize = 1 << 18;
/// Characters of a template's own error message that are shown.
const LONGEST_MESSAGE: usize = 500;
/// Name the one template has inside its environment.
const NAME: &str = "chat";

/// A chat template, compiled, for one tokenizer.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokenizer: Tokenizer,
    source: String,
    /// The source as it is run.
    prepared: String,
    wants_parts: bool,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles the Jinja `source` of a model that uses `tokenizer`.
    ///
    /// # Errors
    /// A syntax error, with its line; a source that is too long.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let problem = format!("{} bytes long (limit {MAX_SOURCE_BYTES})", source.len());
            return Err(TextError::TemplateSyntax { line: 1, problem });
        }
        let environment = environment::new();
        let prepared = environment::without_generation_blocks(source);
        source::check(&prepared, limits::WHITESPACE)
            .map_err(|source::Problem { line, text }| TextError::TemplateSyntax { line, problem: text })?;
        let prepared = source::guarded(&prepared, limits::WHITESPACE);
        limits::compile(NAME, &prepared).map_err(|error| template_error(&error))?;
        let mut template = Self {
            environment,
            tokenizer: tokenizer.clone(),
            source: source.to_owned(),
            prepared,
            wants_parts: true,
        };
        template.wants_parts = template.reads_parts();
        Ok(template)
    }

    /// Whether the template reads content given as a list of parts, found out by giving it one. Templates that do not
    /// would print the list itself; for them [`ChatTemplate::render`] puts the parts' text together.
    fn reads_parts(&self) -> bool {
        const PROBE: &str = "probe7261";
        let part = serde_json::json!({"type": "text", "text": PROBE});
        let message = Message { content: Some(Content::Parts(vec![part])), ..Message::text("user", "") };
        let rendered =
            self.render(&Conversation::new(vec![message])).map(|prompt| prompt.text()).unwrap_or_default();
        let quoted = ['"', '\''].iter().any(|quote| rendered.contains(&format!("{quote}{PROBE}")));
        rendered.contains(PROBE) && !quoted
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for `conversation`.
    ///
    /// # Errors
    /// What the template itself refuses (`raise_exception`), a value it cannot handle, a template that does not end.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt> {
        let mut values = conversation.to_values(self.wants_parts);
        let marker = Marker::new(&self.tokenizer, &values, &self.source);
        for value in values.values_mut() {
            marker.mark_value(value);
        }
        let context = self.context(values, conversation, &marker);
        let rendered =
            limits::render(&self.environment, NAME, &self.prepared, context, conversation.messages.len())
                .map_err(|error| template_error(&error))?;
        Ok(Prompt::from_marked(&rendered, marker.character()))
    }

    /// The variables a template sees: the conversation, the special tokens' spellings, the clock if there is one.
    fn context(
        &self,
        values: Map<String, serde_json::Value>,
        conversation: &Conversation,
        marker: &Marker,
    ) -> Value {
        let tokenizer = &self.tokenizer;
        let tokens = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("pad_token", tokenizer.padding()),
        ];
        let tokens = tokens.into_iter().filter_map(|(name, id)| {
            Some((name.to_owned(), Value::from(tokenizer.token_text(id?).into_owned())))
        });
        // A caller's own variables may not stand for what the limits are made of.
        let values = values.into_iter().filter(|(name, _)| !name.starts_with(limits::RESERVED));
        let clock = conversation.now.map(|now| {
            // No directive becomes longer than this makes its two characters.
            const GROWTH: usize = 16;
            let format = move |state: &State, pattern: String| {
                limits::spend(state, pattern.len().saturating_mul(GROWTH)).map(|()| now.format(&pattern))
            };
            ("strftime_now".to_owned(), Value::from_function(format))
        });
        let mark = (environment::MARK_VARIABLE.to_owned(), Value::from(marker.character().to_string()));
        tokens
            .chain(clock)
            .chain([mark])
            .chain(values.map(|(name, value)| (name, Value::from_serialize(&value))))
            .collect()
    }
}

/// One line out of an error of the template engine.
fn template_error(error: &minijinja::Error) -> TextError {
    let mut problem = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if error.kind() == ErrorKind::OutOfFuel {
        problem = "it runs too long (a loop without an end?)".into();
    }
    let line = problem.replace(char::is_control, " ");
    let mut problem: String = line.chars().take(LONGEST_MESSAGE).collect();
    if problem.len() < line.len() {
        problem.push_str("...");
    }
    match error.kind() {
        ErrorKind::SyntaxError => TextError::TemplateSyntax { line: error.line().unwrap_or(1), problem },
        _ => TextError::TemplateRender { line: error.line(), problem },
    }
}

/// Keyword arguments that a function does not know are an error in Python, too.
fn no_more(arguments: &Kwargs) -> std::result::Result<(), minijinja::Error> {
    arguments.assert_all_used()
}
