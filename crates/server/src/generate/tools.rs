//! Tools: the seam between the APIs and what `alti_text` knows of the dialects in which models call them.

use super::grammar::check_strict;
use super::prompt::template_source;
use super::{ChatRequest, Event, Format};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::models::{Lease, ServedModel};
use alti_engine::grammar::{GrammarSource, loosened, without_idle};
use alti_engine::serving::TokenOutput;
use alti_text::tools::{Tool, ToolCallParser, ToolDialect, ToolEvent, tool_grammar, unwritable};
pub use alti_text::tools::{ToolCall, ToolChoice};
use alti_text::{Content, Message};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// How a request's tools are told to the model and its calls are read.
#[derive(Debug)]
pub struct ToolPlan {
    /// As the request has them; none where none may be called.
    tools: Vec<Value>,
    names: Vec<String>,
    dialect: ToolDialect,
    /// Whether the model's template knows what tools are.
    template_reads_tools: bool,
    id_prefix: &'static str,
    grammar: Option<GrammarSource>,
}

impl ToolPlan {
    /// The plan for a request. Its grammar is compiled to see whether it can be: that may take a while.
    ///
    /// # Errors
    /// Tools that are none, a choice of a tool that is not there, tools and a format that exclude each other.
    pub fn new(model: &Lease, request: &ChatRequest) -> ApiResult<ToolPlan> {
        let functions = request.tools.iter().enumerate().map(|(index, it)| function(index, it));
        let functions = functions.collect::<ApiResult<Vec<Tool>>>()?;
        check_choice(&request.tool_choice, &functions)?;
        let source = template_source(model);
        let mut plan = ToolPlan {
            tools: Vec::new(),
            names: Vec::new(),
            dialect: ToolDialect::detect(source, &model.tokenizer),
            template_reads_tools: source.contains("tools"),
            id_prefix: request.call_id_prefix,
            grammar: None,
        };
        if functions.is_empty() || request.tool_choice == ToolChoice::None {
            plan.grammar = request.format.clone().grammar();
            return Ok(plan);
        }
        for (index, tool) in functions.iter().enumerate() {
            if let Some(what) = unwritable(plan.dialect, tool) {
                let message = format!(
                    "Invalid schema for function '{}': '{what}' is not permitted. The model writes arguments one by one, as \
                     Python does: describe each in `properties`, or leave out `strict`.",
                    tool.name
                );
                return Err(ApiError::field(format!("tools[{index}].function.parameters"), message));
            }
        }
        plan.tools = request.tools.clone();
        plan.names = functions.iter().map(|tool| tool.name.clone()).collect();
        plan.grammar = plan.call_grammar(model, request, &functions)?;
        Ok(plan)
    }

    /// What the answer has to obey: calls that are calls, and a format where there is one.
    fn call_grammar(
        &self,
        model: &ServedModel,
        request: &ChatRequest,
        functions: &[Tool],
    ) -> ApiResult<Option<GrammarSource>> {
        let format = match (&request.tool_choice, &request.format) {
            // Nothing but calls: the format is for what the model says, and it says nothing.
            (ToolChoice::Required | ToolChoice::Named(_), _) | (_, Format::Text) => None,
            (_, Format::Grammar(GrammarSource::JsonSchema(schema))) => Some(schema.clone()),
            (_, Format::Grammar(GrammarSource::LooseJsonSchema(schema))) => Some(
                serde_json::from_str(schema).map_or_else(|_| schema.clone(), |it| loosened(it).to_string()),
            ),
            (_, Format::Grammar(GrammarSource::JsonObject)) => Some(json!({ "type": "object" }).to_string()),
            (_, Format::Grammar(other)) => {
                let message = format!(
                    "a {} and tools exclude each other: set `tool_choice` to none or required",
                    other.kind()
                );
                return Err(ApiError::field(request.options.grammar_field, message));
            }
        };
        let choice = if format.is_some() { &ToolChoice::Required } else { &request.tool_choice };
        let parallel = request.parallel_tool_calls;
        let Some(grammar) = tool_grammar(self.dialect, functions, choice, parallel, &model.tokenizer) else {
            return Ok(None);
        };
        let whole = |lark: &str| match &format {
            None => GrammarSource::Lark(lark.to_owned()),
            Some(schema) => {
                let calls = format!("\n{lark}").replacen("\nstart:", "\nonly_calls:", 1);
                GrammarSource::Lark(format!("start: only_calls | said\nsaid: %json {schema}\n{calls}"))
            }
        };
        let all = whole(&grammar.lark);
        if model.inference.check_grammar(&all).is_ok() {
            return Ok(Some(all));
        }
        // A schema that is none, or too large: then arguments are any object where nothing else is promised, as OpenAI's are
        // without `strict`.
        let loose = whole(&grammar.loose_lark);
        let format = request.format.clone().grammar().filter(|_| format.is_some());
        model.inference.check_grammar(&loose).map_err(|error| {
            // Whether it is the format's fault is seen where it stands alone.
            match format.and_then(|format| model.inference.check_grammar(&format).err()) {
                Some(error) => ApiError::from(error).param(request.options.grammar_field),
                None => ApiError::field("tools", error.to_string()),
            }
        })?;
        Ok(Some(loose))
    }

    /// What the answer has to obey.
    pub fn grammar(&self) -> Option<GrammarSource> {
        self.grammar.clone()
    }

    /// Changes the messages for models whose template knows no tools: they are told in the system's turn, and calls and
    /// their results become text.
    pub fn prepare(&self, messages: &mut Vec<Message>) {
        if self.template_reads_tools {
            return;
        }
        messages.iter_mut().for_each(|message| self.as_text(message));
        if self.tools.is_empty() {
            return;
        }
        let told = self.instructions();
        match messages.first_mut().filter(|message| message.role == "system") {
            Some(Message { content: Some(Content::Text(text)), .. }) => *text = format!("{text}\n\n{told}"),
            _ => messages.insert(0, Message::text("system", told)),
        }
    }

    fn instructions(&self) -> String {
        let functions: Vec<&Value> =
            self.tools.iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
        format!(
            "You may call functions to help with the user's request. You have these functions, as JSON:\n<tools>\n{}\n\
             </tools>\n\nTo call a function, answer with nothing but this, with its name and its arguments filled \
             in:\n{}",
            json!(functions),
            self.spelled("function_name", &json!({ "argument": "value" })),
        )
    }

    /// A call as the model writes it.
    fn spelled(&self, name: &str, arguments: &Value) -> String {
        match self.dialect {
            ToolDialect::Llama3Json | ToolDialect::Llama4Json => {
                json!({ "name": name, "parameters": arguments }).to_string()
            }
            ToolDialect::Pythonic => {
                let fields = arguments.as_object().into_iter().flatten();
                let fields: Vec<String> =
                    fields.map(|(name, value)| format!("{name}={}", python(value))).collect();
                format!("[{name}({})]", fields.join(", "))
            }
            ToolDialect::FunctionTag => format!("<function={name}>{arguments}</function>"),
            ToolDialect::ToolCallTag => {
                format!("<tool_call>\n{}\n</tool_call>", json!({ "name": name, "arguments": arguments }))
            }
            ToolDialect::ToolCallList => {
                format!("<tool_call>[{}]</tool_call>", json!({ "name": name, "arguments": arguments }))
            }
        }
    }

    fn as_text(&self, message: &mut Message) {
        if message.role == "tool" {
            message.role = "user".into();
            if let Some(Content::Text(text)) = &mut message.content {
                *text = format!("<tool_response>\n{text}\n</tool_response>");
            }
        }
        let calls = std::mem::take(&mut message.tool_calls);
        if calls.is_empty() {
            return;
        }
        let mut text = match message.content.take() {
            Some(Content::Text(text)) if !text.is_empty() => text + "\n",
            _ => String::new(),
        };
        for call in &calls {
            let function = &call["function"];
            let arguments = match &function["arguments"] {
                Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!({})),
                other => other.clone(),
            };
            text.push_str(&self.spelled(function["name"].as_str().unwrap_or_default(), &arguments));
        }
        message.content = Some(Content::Text(text));
    }

    /// The tools for the template.
    pub fn template_tools(&self) -> Vec<Value> {
        if self.template_reads_tools { self.tools.clone() } else { Vec::new() }
    }

    /// Whether control tokens must be spelled out for the reader.
    pub fn spells_specials(&self) -> bool {
        !self.tools.is_empty()
    }

    /// What reads one answer.
    pub fn reader(&self) -> ToolReader {
        let parser = || {
            // Parsers number their calls: what comes before the number tells answers apart.
            let prefix = format!("{}_", ids::new(self.id_prefix));
            Box::new(ToolCallParser::new(self.dialect, self.names.clone(), prefix))
        };
        ToolReader { parser: (!self.tools.is_empty()).then(parser), calls: Calls::None }
    }
}

/// A value as Python writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        other => other.to_string(),
    }
}

fn function(index: usize, tool: &Value) -> ApiResult<Tool> {
    let wrong = |what: &str| {
        let place = format!("tools[{index}]");
        ApiError::field(place.clone(), format!("`{place}` {what}"))
    };
    match tool["type"].as_str() {
        Some("function") | None if tool.is_object() => {}
        _ => return Err(wrong("must be an object of type `function`: other kinds of tools are not here")),
    }
    let function = tool.get("function").unwrap_or(tool);
    if !matches!(function.get("parameters"), None | Some(Value::Null | Value::Object(_))) {
        return Err(wrong("has `parameters` that are no JSON schema"));
    }
    let mut tool = Tool::from_value(tool).ok_or_else(|| wrong("has no function with a name"))?;
    let is_name = |name: &str| {
        (1..=128).contains(&name.len())
            && name.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-.".contains(&it))
    };
    if !is_name(&tool.name) {
        return Err(wrong(
            "has a function whose name is not made of 1 to 128 letters, digits, `_`, `-` and `.`",
        ));
    }
    if let Some(schema) = &mut tool.parameters {
        without_idle(schema);
    }
    if let Some(schema) = tool.parameters.as_ref().filter(|_| tool.strict) {
        let (whose, field) =
            (format!("function '{}'", tool.name), format!("tools[{index}].function.parameters"));
        check_strict(schema, &whose, &field)?;
    }
    Ok(tool)
}

fn check_choice(choice: &ToolChoice, tools: &[Tool]) -> ApiResult<()> {
    match choice {
        ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
            let message =
                format!("`tool_choice` names `{}`, which is none of the tools", crate::error::excerpt(name));
            Err(ApiError::field("tool_choice", message))
        }
        ToolChoice::Required if tools.is_empty() => {
            Err(ApiError::field("tool_choice", "`tool_choice` asks for a call, and there are no tools"))
        }
        _ => Ok(()),
    }
}

/// What an answer calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// Nothing.
    #[default]
    None,
    /// One or several tools.
    Whole,
    /// A call in it has no end.
    Cut,
}

/// Tells text from calls while it comes.
pub struct ToolReader {
    parser: Option<Box<ToolCallParser>>,
    calls: Calls,
}

impl std::fmt::Debug for ToolReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ToolReader").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl ToolReader {
    /// A reader that takes everything for text.
    pub fn text_only() -> ToolReader {
        ToolReader { parser: None, calls: Calls::None }
    }

    /// Takes the next token and its text.
    pub fn push(
        &mut self,
        choice: u32,
        text: String,
        token: Option<TokenOutput>,
        into: &mut VecDeque<Event>,
    ) {
        let Some(parser) = &mut self.parser else {
            if !text.is_empty() || token.is_some() {
                into.push_back(Event::Text { choice, text, tokens: token.into_iter().collect() });
            }
            return;
        };
        let events = parser.push(&text);
        if let Some(token) = token {
            into.push_back(Event::Text { choice, text: String::new(), tokens: vec![token] });
        }
        self.tell(choice, events, into);
    }

    /// The answer has ended: what was held back comes now. What was called.
    pub fn finish(&mut self, choice: u32, into: &mut VecDeque<Event>) -> Calls {
        if let Some(parser) = &mut self.parser {
            let mut events = parser.finish();
            // The call has been told already: what there is of it stands, and the answer says that it was cut.
            let is_abandoned = |event: &ToolEvent| matches!(event, ToolEvent::Abandoned { .. });
            let is_cut = events.iter().any(is_abandoned);
            events.retain(|event| !is_abandoned(event));
            self.tell(choice, events, into);
            if is_cut {
                self.calls = Calls::Cut;
            }
        }
        self.calls
    }

    fn tell(&mut self, choice: u32, events: Vec<ToolEvent>, into: &mut VecDeque<Event>) {
        for event in events {
            into.push_back(match event {
                ToolEvent::Content(text) => Event::Text { choice, text, tokens: Vec::new() },
                ToolEvent::Start { index, id, name } => Event::CallBegin { choice, index, id, name },
                ToolEvent::Arguments { index, text } => {
                    Event::CallArguments { choice, index, arguments: text }
                }
                ToolEvent::End { .. } => {
                    // One that is cut says so of all.
                    self.calls = if self.calls == Calls::Cut { Calls::Cut } else { Calls::Whole };
                    continue;
                }
                // What was told cannot be taken back: the answer says that a call in it was cut, and nothing is lost. It
                // takes a model that spells a call's beginning letter by letter, which no grammar sees.
                ToolEvent::Abandoned { text, .. } => {
                    self.calls = Calls::Cut;
                    Event::Text { choice, text, tokens: Vec::new() }
                }
            });
        }
    }
}

/// The arguments of a call as an object, for APIs that have them so.
pub(crate) fn arguments_object(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ => Value::Object(Map::new()),
    }
}
