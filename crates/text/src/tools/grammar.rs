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
/// White space between the parts of a call. Without a bound, a model may write nothing else.
const GAP: &str = r"[\x20\t\r\n]{0,9}";
/// As much white space as there is.
const SPACE: &str = r"[\x20\t\r\n]*";
/// Any text at all.
const ANY: &str = "/(?s:.*)/";

/// What an answer has to obey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolGrammar {
    /// Lark source: arguments obey their tools' schemas.
    pub lark: String,
    /// The same, but arguments of tools that promise nothing are any JSON object, for schemas that are none, or too large.
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
        let mut writer = Writer {
            form: dialect.form(),
            tools: &tools,
            tokenizer,
            strict,
            parallel,
            exact: *choice != ToolChoice::Auto,
            text: String::new(),
        };
        match choice {
            ToolChoice::Auto => writer.auto(),
            _ => writer.required(),
        }
        writer.text
    };
    Some(ToolGrammar { lark: write(true), loose_lark: write(false) })
}

/// What of a strict tool's schema cannot be kept where arguments are written one by one as Python does: they are those
/// that `properties` names, and have names that Python takes.
pub fn unwritable(dialect: ToolDialect, tool: &Tool) -> Option<String> {
    const KEPT: [&str; 10] = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "$defs",
        "definitions",
        "title",
        "description",
        "$schema",
        "$comment",
    ];
    let schema = tool.parameters.as_ref().filter(|_| tool.strict)?.as_object()?;
    if !matches!(dialect.form().notation, Notation::Python) {
        return None;
    }
    let no_properties = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&no_properties);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing = required.filter_map(Value::as_str).find(|name| !properties.contains_key(*name));
    let keyword = schema.keys().find(|keyword| !KEPT.contains(&keyword.as_str()));
    keyword
        .or_else(|| properties.keys().find(|name| !is_python_name(name)))
        .map(String::as_str)
        .or(missing)
        .map(str::to_owned)
}

fn is_python_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(super::python::is_name)
}

struct Writer<'a> {
    form: &'static Form,
    tools: &'a [&'a Tool],
    tokenizer: &'a Tokenizer,
    strict: bool,
    parallel: bool,
    /// Whether calls are spelled in one way.
    exact: bool,
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

    /// A part that may follow a first call, where several are allowed.
    fn more(&self, part: &str) -> String {
        if self.parallel { format!(" ( {part} )*") } else { String::new() }
    }

    /// A control token that may stand at an end of the calls, if the model has it.
    fn optional(&self, token: Option<&str>) -> String {
        token.filter(|token| self.is_token(token)).map_or(String::new(), |token| format!(" {token}?"))
    }

    /// Nothing but calls, spelled as models are shown them.
    fn required(&mut self) {
        let (open, close) = (self.form.open[0], self.form.close.unwrap_or(""));
        if self.form.leads {
            let (before, after) = (self.optional(Some(open)), self.optional(self.form.close));
            let calls = match self.form.notation {
                Notation::Python => format!("\"[\" call{} \"]\"", self.more("\", \" call")),
                _ => format!("call{}", self.more("\"; \" call")),
            };
            self.line(format!("start:{before} {calls}{after}"));
        } else {
            let (open, close) = (self.symbol(open), self.symbol(close));
            self.line(format!("start: tagged{}", self.more("\"\\n\" tagged")));
            self.line(match self.form.dialect {
                ToolDialect::FunctionTag => format!("tagged: {open} call {close}"),
                ToolDialect::ToolCallList => {
                    format!("tagged: {open} \"[\" call{} \"]\" {close}", self.more("\", \" call"))
                }
                _ => format!("tagged: {open} \"\\n\" call \"\\n\" {close}"),
            });
        }
        match self.form.notation {
            Notation::Json | Notation::JsonOrCode => {
                let key = self.form.arguments;
                self.each("call", |tool| {
                    literal(&format!("{{\"name\": {}, \"{key}\": ", Value::from(tool.name.as_str())))
                });
            }
            Notation::Python => self.each("call", |tool| literal(&format!("{}(", tool.name))),
            Notation::Tag => self.each("call", |tool| literal(&format!("{}>", tool.name))),
        }
        self.all_arguments();
    }

    /// Text or calls.
    fn auto(&mut self) {
        if self.form.leads {
            self.auto_leading()
        } else {
            self.auto_anywhere()
        }
        self.all_arguments();
    }

    /// An answer that is calls from its beginning, or becomes calls at a token.
    fn auto_leading(&mut self) {
        let open = self.form.open[0];
        let names = self.tools.iter().map(|tool| pattern(&tool.name)).collect::<Vec<_>>().join("|");
        let quoted = self.tools.iter().map(|tool| quoted_pattern(tool)).collect::<Vec<_>>().join("|");
        let begins = match self.form.notation {
            Notation::Python => format!(r"{SPACE}\[{SPACE}({names})\("),
            _ => {
                let kind = kind_pattern(SPACE);
                format!(r#"{SPACE}(\[{SPACE})?\{{{SPACE}{kind}"name"{SPACE}:{SPACE}({quoted})"#)
            }
        };
        self.line(format!("TEXT: {ANY} & ~/{begins}(?s:.*)/"));
        self.calls_in_a_row();
        if self.is_token(open) {
            let close = self.optional(self.form.close);
            let code = if self.form.notation == Notation::JsonOrCode { " | CODE" } else { "" };
            self.line(format!("start: TEXT | calls | TEXT {open} ( calls{close}{code} )"));
            if !code.is_empty() {
                self.line(r"CODE: /[^{\[\s](?s:.*)/");
            }
        } else {
            self.line("start: TEXT | calls");
        }
    }

    /// The rule of the calls that an answer is.
    fn calls_in_a_row(&mut self) {
        // What may come between is read with what comes next: a lexeme of its own would be lost in the text.
        match self.form.notation {
            Notation::Python => {
                self.line(format!(r"calls: lead{} /{GAP}\]{GAP}/", self.more("next")));
                for (rule, before) in [("lead", r"\["), ("next", ",")] {
                    self.each(rule, |tool| format!("/{GAP}{before}{GAP}{}\\(/", pattern(&tool.name)));
                }
            }
            _ => {
                let (bare, listed) = (self.more("next"), self.more("another"));
                self.line(format!(r"calls: ( lead{bare} | first{listed} /{GAP}\]/ ) /[\x20\t\r\n]+/?"));
                for (rule, before) in [("lead", ""), ("next", "[;,]?"), ("first", r"\["), ("another", ",")] {
                    self.each(rule, |tool| json_head(tool, before));
                }
            }
        }
    }

    /// Calls between texts, wherever they stand.
    fn auto_anywhere(&mut self) {
        let (open, close) = (self.form.open[0], self.form.close.unwrap_or(""));
        let often = if self.parallel { "*" } else { "?" };
        self.line(format!("start: ( head body ){often} TEXT"));
        if self.is_token(open) {
            self.line(format!("TEXT: {ANY}"));
            self.line(format!("head: TEXT {open}"));
        } else {
            self.line(format!("TEXT: {ANY} & ~/(?s:.*){}(?s:.*)/", pattern(open)));
            self.line(format!("head[lazy]: /(?s:.*){}/", pattern(open)));
        }
        let close = if self.is_token(close) {
            format!(r"/[\x20\t\r\n]+/? {close}")
        } else {
            format!("/{GAP}{}/", pattern(close))
        };
        if self.form.notation == Notation::Tag {
            self.line(format!("body: call {close}"));
            self.each("call", |tool| literal(&format!("{}>", tool.name)));
        } else {
            let list = format!("/{GAP}\\[/ call{} /{GAP}\\]/", self.more(&format!("/{GAP},/ call")));
            self.line(format!("body: ( call | {list} ) {close}"));
            self.each("call", |tool| json_head(tool, ""));
        }
    }

    /// The rule of a call to any tool: `head` is how it begins, up to its arguments.
    fn each(&mut self, rule: &str, head: impl Fn(&Tool) -> String) {
        let end = match self.form.notation {
            Notation::Json | Notation::JsonOrCode if self.exact => " \"}\"".to_owned(),
            Notation::Json | Notation::JsonOrCode => format!(r" /{GAP}\}}/"),
            Notation::Python => " \")\"".to_owned(),
            Notation::Tag => String::new(),
        };
        let calls = self.tools.iter().enumerate();
        let calls = calls.map(|(index, tool)| format!("{} args{index}{end}", head(tool)));
        self.line(format!("{rule}: {}", calls.collect::<Vec<_>>().join(" | ")));
    }

    fn all_arguments(&mut self) {
        for (index, tool) in self.tools.iter().enumerate() {
            match self.form.notation {
                Notation::Python => self.python(index, tool),
                _ => self.arguments(index, tool),
            }
        }
    }

    fn arguments(&mut self, index: usize, tool: &Tool) {
        let schema = tool.parameters.as_ref().filter(|_| self.strict || tool.strict);
        let mut schema = schema.and_then(Value::as_object).cloned().unwrap_or_default();
        // Arguments are an object, even where the schema does not say so.
        schema.insert("type".into(), json!("object"));
        self.line(format!("args{index}: %json {}", with_options(schema, tool.strict)));
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
        // Names that Python has no keyword arguments for cannot be written.
        let properties: Vec<(&String, &Value)> =
            properties.iter().filter(|(name, _)| is_python_name(name)).collect();
        self.line(format!("args{index}: first{index}_0"));
        for (at, (name, schema)) in properties.iter().enumerate() {
            let next = at + 1;
            let here = format!("arg{index}_{at}");
            let optional = !required.contains(&name.as_str());
            let (skip, mark) =
                if optional { (format!(" | first{index}_{next}"), "?") } else { (String::new(), "") };
            self.line(format!("first{index}_{at}: {here} rest{index}_{next}{skip}"));
            self.line(format!("rest{index}_{at}: ( \", \" {here} ){mark} rest{index}_{next}"));
            let value = self.python_value(schema, parameters, tool.strict);
            self.line(format!("{here}: {} {value}", literal(&format!("{name}="))));
        }
        let end = properties.len();
        self.line(format!("first{index}_{end}: \"\""));
        self.line(format!("rest{index}_{end}: \"\""));
    }

    /// A value as Python writes it. Inside of lists and objects words are JSON's, which [`super::ToolCallParser`] takes.
    fn python_value(&self, schema: &Value, parameters: &Map<String, Value>, strict: bool) -> String {
        let mut own = schema.as_object().filter(|_| self.strict || strict).cloned().unwrap_or_default();
        if own.get("type") == Some(&json!("boolean")) {
            return "( \"True\" | \"False\" )".into();
        }
        // References are to what the whole schema defines.
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = parameters.get(key) {
                own.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        format!("%json {}", with_options(own, strict))
    }
}

/// A schema with how its white space is written, and whether what cannot be checked of it is passed over.
fn with_options(mut schema: Map<String, Value>, strict: bool) -> Value {
    schema.insert("x-guidance".into(), json!({"whitespace_pattern": WHITESPACE, "lenient": !strict}));
    Value::Object(schema)
}

/// How a JSON call begins, with white space as the model likes, and `before` in front of it.
fn json_head(tool: &Tool, before: &str) -> String {
    let (name, kind) = (quoted_pattern(tool), kind_pattern(GAP));
    format!(
        r#"/{GAP}{before}{GAP}\{{{GAP}{kind}"name"{GAP}:{GAP}{name}{GAP},{GAP}"(parameters|arguments)"{GAP}:{GAP}/"#
    )
}

/// What a call may say of itself before its name, with such white space between the parts.
fn kind_pattern(space: &str) -> String {
    format!(r#"("type"{space}:{space}"function"{space},{space})?"#)
}

/// A tool's name as JSON writes it, as a regular expression.
fn quoted_pattern(tool: &Tool) -> String {
    pattern(&Value::from(tool.name.as_str()).to_string())
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
