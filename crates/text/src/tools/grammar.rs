//! Grammars of tool calls, in Lark as `llguidance` reads it: an answer that must call a tool can be nothing else, and one
//! that may is free text until it begins a call, from where on it has to be a good one.
//!
//! The lexer of such a grammar takes all the text it can get, so free text is described as all text in which no call
//! begins; what begins a call is one lexeme.

use super::dialect::{Form, Notation, ToolDialect};
use super::{Tool, ToolChoice};
use crate::Tokenizer;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// White space between the parts of arguments, as a regular expression.
const WHITESPACE: &str = r"(\x20|\r?\n[\x20\t]{0,40})";
/// Any text at all.
const ANY: &str = "/(?s:.*)/";

/// What an answer has to obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolGrammar {
    /// Lark source: arguments obey their tools' schemas.
    pub lark: String,
    /// The same where arguments are any JSON object, for schemas that ask for what grammars cannot check.
    pub loose_lark: String,
}

/// The grammar of an answer in `dialect` of a model with `tokenizer` that has `tools`; with `parallel`, of several calls.
/// None where nothing is to be made sure of: without tools, or with [`ToolChoice::None`], or if the tool that is named is
/// none of them.
pub fn tool_grammar(
    dialect: ToolDialect,
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    tokenizer: &Tokenizer,
) -> Option<ToolGrammar> {
    let tools: Vec<&Tool> = match choice {
        ToolChoice::None => return None,
        ToolChoice::Auto | ToolChoice::Required => tools.iter().collect(),
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    if tools.is_empty() {
        return None;
    }
    let parallel = parallel && !matches!(choice, ToolChoice::Named(_));
    let write = |strict: bool| {
        let mut writer =
            Writer { form: dialect.form(), tools: &tools, tokenizer, strict, parallel, text: String::new() };
        match choice {
            ToolChoice::Auto => writer.auto(),
            _ => writer.required(),
        }
        writer.text
    };
    Some(ToolGrammar { lark: write(true), loose_lark: write(false) })
}

struct Writer<'a> {
    form: &'static Form,
    tools: &'a [&'a Tool],
    tokenizer: &'a Tokenizer,
    strict: bool,
    parallel: bool,
    text: String,
}

impl Writer<'_> {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// A control token of the model, or the text that stands for it.
    fn symbol(&self, text: &str) -> String {
        if self.is_token(text) { text.to_owned() } else { literal(text) }
    }

    fn is_token(&self, text: &str) -> bool {
        self.tokenizer.id_of(text).is_some_and(|id| self.tokenizer.is_special(id))
    }

    /// Nothing but calls.
    fn required(&mut self) {
        let (more, open, close) = (self.repetition(), self.form.open[0], self.form.close.unwrap_or(""));
        match (self.form.notation, self.form.leads) {
            (Notation::Tag, _) => {
                self.line(format!("start: tagged ( \"\\n\" tagged ){more}"));
                self.line(format!("tagged: {} named {}", self.symbol(open), self.symbol(close)));
            }
            (_, false) => {
                self.line(format!("start: tagged ( \"\\n\" tagged ){more}"));
                let calls = if self.form.dialect == ToolDialect::ToolCallList { "list" } else { "call" };
                let (open, close) = (self.symbol(open), self.symbol(close));
                let gap = if calls == "call" { "\"\\n\" " } else { "" };
                self.line(format!("tagged: {open} {gap}{calls} {gap}{close}"));
                self.line(format!("list: \"[\" call ( \", \" call ){more} \"]\""));
            }
            (Notation::Python, true) => {
                let open = if self.is_token(open) { format!("{open}? ") } else { String::new() };
                let close = if self.is_token(close) { format!(" {close}?") } else { String::new() };
                self.line(format!("start: {open}\"[\" call ( \", \" call ){more} \"]\"{close}"));
            }
            (_, true) => {
                let open = if self.is_token(open) { format!("{open}? ") } else { String::new() };
                let close = if self.is_token(close) { format!(" {close}?") } else { String::new() };
                self.line(format!("start: {open}call ( \"; \" call ){more}{close}"));
            }
        }
        self.calls(false);
    }

    /// Text or calls.
    fn auto(&mut self) {
        if self.form.leads {
            self.auto_leading()
        } else {
            self.auto_anywhere()
        }
        self.calls(true);
    }

    /// An answer that is calls from its beginning, or becomes calls at a token.
    fn auto_leading(&mut self) {
        let more = self.repetition();
        let (open, close) = (self.form.open[0], self.form.close);
        let names = self.names();
        let (begins, calls) = match self.form.notation {
            Notation::Python => (
                format!(r"\s*\[\s*({names})\("),
                format!("/\\s*\\[\\s*/ call ( /\\s*,\\s*/ call ){more} /\\s*\\]\\s*/"),
            ),
            _ => (
                format!(r#"\s*\[?\s*\{{\s*"name"\s*:\s*"({names})""#),
                format!("/\\s*/ call ( /\\s*[;,]?\\s*/ call ){more} /\\s*/"),
            ),
        };
        let marker = if self.is_token(open) {
            String::new()
        } else {
            format!(" & ~/(?s:.*){}(?s:.*)/", pattern(open))
        };
        self.line(format!("TEXT: {ANY} & ~/{begins}(?s:.*)/{marker}"));
        self.line(format!("calls: {calls}"));
        if self.is_token(open) {
            let close = close
                .filter(|close| self.is_token(close))
                .map_or(String::new(), |close| format!(" {close}?"));
            let code = if self.form.notation == Notation::JsonOrCode { " | CODE" } else { "" };
            self.line(format!("start: TEXT | calls | TEXT {open} ( calls{close}{code} )"));
            if !code.is_empty() {
                self.line(r"CODE: /[^{\[\s](?s:.*)/");
            }
        } else {
            self.line("start: TEXT | calls");
        }
    }

    /// Calls between texts, wherever they stand.
    fn auto_anywhere(&mut self) {
        let more = if self.parallel { "*" } else { "?" };
        let (open, close) = (self.form.open[0], self.form.close.unwrap_or(""));
        self.line(format!("start: ( head body ){more} TEXT"));
        if self.is_token(open) {
            self.line(format!("TEXT: {ANY}"));
            self.line(format!("head: TEXT {open}"));
        } else {
            self.line(format!("TEXT: {ANY} & ~/(?s:.*){}(?s:.*)/", pattern(open)));
            self.line(format!("head[lazy]: /(?s:.*){}/", pattern(open)));
        }
        let close = self.symbol(close);
        if self.form.notation == Notation::Tag {
            self.line(format!("body: named {close}"));
            return;
        }
        let calls = if self.parallel { "call ( /\\s*,\\s*/ call )*" } else { "call" };
        self.line(format!("body: /\\s*/ ( call | /\\[\\s*/ {calls} /\\s*\\]/ ) /\\s*/ {close}"));
    }

    fn repetition(&self) -> &'static str {
        if self.parallel { "*" } else { "{0,0}" }
    }

    /// The tools' names as a regular expression.
    fn names(&self) -> String {
        self.tools.iter().map(|tool| pattern(&tool.name)).collect::<Vec<_>>().join("|")
    }

    /// The rules of calls; `free`: with white space as the model likes.
    fn calls(&mut self, free: bool) {
        let each: Vec<String> = (0..self.tools.len()).map(|index| format!("call{index}")).collect();
        let rule = if self.form.notation == Notation::Tag { "named" } else { "call" };
        self.line(format!("{rule}: {}", each.join(" | ")));
        for (index, tool) in self.tools.iter().enumerate() {
            match self.form.notation {
                Notation::Tag => {
                    let head = format!("{}>", tool.name);
                    self.line(format!("call{index}: {} args{index}", literal(&head)));
                    self.arguments(index, tool);
                }
                Notation::Python => self.python(index, tool),
                Notation::Json | Notation::JsonOrCode => {
                    let key = self.form.arguments;
                    let name = Value::from(tool.name.as_str()).to_string();
                    if free {
                        let name = pattern(&name);
                        self.line(format!(
                            "call{index}: /\\{{\\s*\"name\"\\s*:\\s*{name}\\s*,\\s*\"(parameters|arguments)\"\\s*:\\s*/ \
                             args{index} /\\s*\\}}/"
                        ));
                    } else {
                        let head = format!("{{\"name\": {name}, \"{key}\": ");
                        self.line(format!("call{index}: {} args{index} \"}}\"", literal(&head)));
                    }
                    self.arguments(index, tool);
                }
            }
        }
    }

    fn arguments(&mut self, index: usize, tool: &Tool) {
        let schema = tool.parameters.as_ref().filter(|_| self.strict);
        let mut schema = schema.and_then(Value::as_object).cloned().unwrap_or_default();
        // Arguments are an object, even where the schema does not say so.
        schema.insert("type".into(), json!("object"));
        self.line(format!("args{index}: %json {}", with_options(schema)));
    }

    /// `name(first=1, second="x")`: the arguments in their schema's order.
    fn python(&mut self, index: usize, tool: &Tool) {
        let none = Map::new();
        let parameters = tool.parameters.as_ref().and_then(Value::as_object).unwrap_or(&none);
        let properties = parameters.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required: Vec<&str> = parameters
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let open = literal(&format!("{}(", tool.name));
        // Names that Python has no keyword arguments for cannot be written.
        let is_name = |name: &str| !name.is_empty() && name.chars().all(super::python::is_name);
        let properties: Vec<(&String, &Value)> =
            properties.iter().filter(|(name, _)| is_name(name)).collect();
        self.line(format!("call{index}: {open} first{index}_0 \")\""));
        for (at, (name, schema)) in properties.iter().enumerate() {
            let next = at + 1;
            let here = format!("arg{index}_{at}");
            let optional = !required.contains(&name.as_str());
            let (skip, mark) =
                if optional { (format!(" | first{index}_{next}"), "?") } else { (String::new(), "") };
            self.line(format!("first{index}_{at}: {here} rest{index}_{next}{skip}"));
            self.line(format!("rest{index}_{at}: ( \", \" {here} ){mark} rest{index}_{next}"));
            let value = self.python_value(schema, parameters);
            self.line(format!("{here}: {} {value}", literal(&format!("{name}="))));
        }
        let end = properties.len();
        self.line(format!("first{index}_{end}: \"\""));
        self.line(format!("rest{index}_{end}: \"\""));
    }

    /// A value as Python writes it. Inside of lists and objects words are JSON's, which [`super::ToolCallParser`] takes.
    fn python_value(&self, schema: &Value, parameters: &Map<String, Value>) -> String {
        let mut own = schema.as_object().filter(|_| self.strict).cloned().unwrap_or_default();
        if own.get("type") == Some(&json!("boolean")) {
            return "( \"True\" | \"False\" )".into();
        }
        // References are to what the whole schema defines.
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = parameters.get(key) {
                own.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        format!("%json {}", with_options(own))
    }
}

/// A schema with how its white space is written.
fn with_options(mut schema: Map<String, Value>) -> Value {
    schema.insert("x-guidance".into(), json!({"whitespace_pattern": WHITESPACE}));
    Value::Object(schema)
}

/// A text as Lark quotes it.
fn literal(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A text as a regular expression between Lark's slashes.
fn pattern(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            pattern.push(character);
        } else {
            let _ = write!(pattern, "\\x{{{:X}}}", u32::from(character));
        }
    }
    pattern
}
