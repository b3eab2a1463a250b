//! Readers of calls, one a notation. Each takes a region's text one character at a time and says what it has found; it
//! sees no further than that character, so it does not matter how a text arrives.

use super::dialect::Notation;
use super::json::{JsonReader, Step};
use super::python;

/// Tools that Llama 3.1 calls as `name.call(...)`, whatever was said to it.
const BUILT_IN: [&str; 2] = ["brave_search", "wolfram_alpha"];
/// Names a tool that runs code goes by.
const CODE_TOOLS: [&str; 3] = ["code_interpreter", "python", "ipython"];

/// What a reader has found.
pub(super) enum Found {
    /// A call of this function.
    Start(String),
    /// More of its arguments.
    Arguments(String),
    /// Its end.
    End,
}

/// What a reader makes of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It belongs to the region, which goes on.
    More,
    /// It is the region's last.
    Last,
    /// It comes behind the region.
    Behind,
    /// No calls are written so.
    Bad,
}

/// The functions that may be called; none known means all.
#[derive(Clone, Debug)]
pub(super) struct Names(pub(super) Vec<String>);

impl Names {
    fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|known| known == name)
    }

    /// Whether a name may begin so.
    fn has_prefix(&self, start: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|known| known.starts_with(start))
    }

    fn code_tool(&self) -> Option<&str> {
        CODE_TOOLS.into_iter().find(|name| self.has(name))
    }
}

/// The reader of a region.
pub(super) enum Reader {
    Json(JsonCalls),
    Code(Code),
    Python(PythonCalls),
    Tag(TagCall),
}

impl Reader {
    /// For a region that an opening text announced.
    pub(super) fn new(notation: Notation) -> Self {
        match notation {
            Notation::Json => Self::Json(JsonCalls::default()),
            Notation::JsonOrCode => Self::Code(Code::Undecided(String::new())),
            Notation::Python => Self::Python(PythonCalls::Begin),
            Notation::Tag => Self::Tag(TagCall::Name(String::new())),
        }
    }

    /// For a region that this character, the first of an answer, may begin.
    pub(super) fn leading(notation: Notation, first: char) -> Option<Self> {
        match (notation, first) {
            (Notation::Json | Notation::JsonOrCode, '{' | '[') => {
                Some(Self::Json(JsonCalls { strict: true, ..JsonCalls::default() }))
            }
            (Notation::Python, '[') => Some(Self::Python(PythonCalls::Begin)),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Verdict {
        match self {
            Self::Json(reader) => reader.push(character, names, found),
            Self::Python(reader) => reader.push(character, names, found),
            Self::Tag(reader) => reader.push(character, names, found),
            Self::Code(reader) => reader.push(character, names, found),
        }
    }

    /// Ends the text. Whether what is there is complete.
    pub(super) fn finish(&mut self, names: &Names, found: &mut Vec<Found>) -> bool {
        match self {
            Self::Json(reader) => reader.is_between(),
            Self::Python(_) => false,
            Self::Tag(_) => false,
            Self::Code(reader) => reader.finish(names, found),
        }
    }
}

pub(super) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// Whether a text is written in JSON as it always is, nothing escaped that need not be.
fn is_plain(raw: &str, text: &str) -> bool {
    serde_json::to_string(text).is_ok_and(|plain| plain == raw)
}

/// JSON objects one after the other, perhaps in a list.
#[derive(Default)]
pub(super) struct JsonCalls {
    /// Whether only what [`super::tool_grammar`] takes for a call is one: everything else may be free text, in which
    /// arguments obey nothing.
    strict: bool,
    in_list: bool,
    at: JsonAt,
}

#[derive(Default)]
enum JsonAt {
    #[default]
    Begin,
    /// Another call must come.
    Next,
    Object(Box<JsonObject>),
    Between,
}

impl JsonCalls {
    fn object(&self) -> JsonAt {
        JsonAt::Object(Box::new(JsonObject { strict: self.strict, ..JsonObject::default() }))
    }

    fn is_between(&self) -> bool {
        matches!(self.at, JsonAt::Between) && !self.in_list
    }

    fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Verdict {
        match &mut self.at {
            JsonAt::Object(object) => match object.push(character, names, found) {
                Some(true) => self.at = JsonAt::Between,
                Some(false) => {}
                None => return Verdict::Bad,
            },
            _ if is_space(character) => {}
            JsonAt::Begin if character == '[' => {
                self.in_list = true;
                self.at = JsonAt::Next;
            }
            JsonAt::Begin | JsonAt::Next if character == '{' => self.at = self.object(),
            JsonAt::Between if !self.in_list && character == '{' => self.at = self.object(),
            JsonAt::Between if self.in_list && character == ',' => self.at = JsonAt::Next,
            JsonAt::Between if self.in_list && character == ']' => return Verdict::Last,
            JsonAt::Between if !self.in_list && matches!(character, ';' | ',') => self.at = JsonAt::Next,
            JsonAt::Between if !self.in_list => return Verdict::Behind,
            _ => return Verdict::Bad,
        }
        Verdict::More
    }
}

/// `{"name": ..., "parameters": {...}}`, members in any order; or, if that is strict, `"type": "function"` in front at most.
#[derive(Default)]
struct JsonObject {
    strict: bool,
    has_type: bool,
    part: Part,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    started: bool,
}

#[derive(Default)]
enum Part {
    /// A key must come.
    #[default]
    Open,
    Key(JsonReader, String),
    Colon,
    Value(JsonReader, String),
    After,
}

impl JsonObject {
    /// Takes a character behind the opening brace. Whether the object ended with it; none if this is no call.
    fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Option<bool> {
        match &mut self.part {
            Part::Open | Part::Colon | Part::After if is_space(character) => {}
            Part::Value(_, raw) if raw.is_empty() && is_space(character) => {}
            Part::Open if character == '"' => {
                let mut reader = JsonReader::new();
                reader.push(character);
                self.part = Part::Key(reader, character.into());
            }
            Part::Key(reader, raw) => {
                raw.push(character);
                match reader.push(character) {
                    Step::More => {}
                    Step::Done => {
                        self.key = serde_json::from_str(raw).ok()?;
                        let plain = is_plain(raw, &self.key);
                        self.part = Part::Colon;
                        (!self.strict || (plain && self.is_in_order())).then_some(())?;
                        let new_name = self.key == "name" && self.name.is_none();
                        let new_arguments = self.is_arguments() && !self.has_arguments;
                        (new_name || new_arguments || matches!(self.key.as_str(), "type" | "id"))
                            .then_some(())?;
                    }
                    Step::Before | Step::Bad => return None,
                }
            }
            Part::Colon if character == ':' => self.part = Part::Value(JsonReader::new(), String::new()),
            Part::Value(..) => return self.value(character, names, found),
            Part::After if character == ',' => self.part = Part::Open,
            Part::After if character == '}' => return self.end(found),
            _ => return None,
        }
        Some(false)
    }

    /// Whether the key comes where it does in all calls that a grammar lets through.
    fn is_in_order(&self) -> bool {
        match self.key.as_str() {
            "type" => !self.has_type && self.name.is_none() && !self.has_arguments,
            "name" => !self.has_arguments,
            _ => self.is_arguments() && self.name.is_some(),
        }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "parameters" | "arguments")
    }

    fn value(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Option<bool> {
        let is_arguments = self.is_arguments();
        let Part::Value(reader, raw) = &mut self.part else { return None };
        let begins = raw.is_empty();
        let wanted = if is_arguments { '{' } else { '"' };
        (!begins || character == wanted).then_some(())?;
        let step = reader.push(character);
        let done = match step {
            Step::More => false,
            Step::Done => true,
            Step::Before | Step::Bad => return None,
        };
        if is_arguments {
            if begins {
                raw.push(character);
                self.has_arguments = true;
            }
            self.arguments(character, found);
        } else {
            raw.push(character);
        }
        if done {
            self.member(names, found)?;
        }
        Some(false)
    }

    /// One more character of the arguments.
    fn arguments(&mut self, character: char, found: &mut Vec<Found>) {
        match &self.name {
            None => self.early.push(character),
            Some(name) => {
                if !self.started {
                    found.push(Found::Start(name.clone()));
                    self.started = true;
                }
                found.push(Found::Arguments(character.into()));
            }
        }
    }

    /// A value is complete.
    fn member(&mut self, names: &Names, found: &mut Vec<Found>) -> Option<()> {
        let Part::Value(_, raw) = std::mem::replace(&mut self.part, Part::After) else { return None };
        match self.key.as_str() {
            "name" => {
                let name: String = serde_json::from_str(&raw).ok().filter(|name: &String| names.has(name))?;
                (!self.strict || is_plain(&raw, &name)).then_some(())?;
                if self.has_arguments {
                    found.push(Found::Start(name.clone()));
                    found.push(Found::Arguments(std::mem::take(&mut self.early)));
                    self.started = true;
                }
                self.name = Some(name);
            }
            "type" => {
                (raw == "\"function\"").then_some(())?;
                self.has_type = true;
            }
            _ => {}
        }
        Some(())
    }

    fn end(&mut self, found: &mut Vec<Found>) -> Option<bool> {
        let name = self.name.clone()?;
        if !self.has_arguments {
            found.push(Found::Start(name));
            found.push(Found::Arguments("{}".into()));
        }
        found.push(Found::End);
        Some(true)
    }
}

/// `[f(a=1), g(b="x")]`.
pub(super) enum PythonCalls {
    Begin,
    Name(String),
    /// An argument, or the end of the call. `started`: whether the call was announced.
    Argument {
        name: String,
        started: bool,
    },
    ArgumentName {
        name: String,
        argument: String,
        spaced: bool,
        started: bool,
    },
    Value {
        name: String,
        argument: String,
        value: PythonValue,
        started: bool,
    },
    AfterCall,
}

/// An argument's text, up to where it ends.
#[derive(Default)]
pub(super) struct PythonValue {
    text: String,
    depth: usize,
    quote: Option<char>,
    escaped: bool,
}

impl PythonValue {
    /// Whether a character ends the value.
    fn ends(&mut self, character: char) -> bool {
        match self.quote {
            Some(_) if self.escaped => self.escaped = false,
            Some(_) if character == '\\' => self.escaped = true,
            Some(quote) if character == quote => self.quote = None,
            Some(_) => {}
            None => match character {
                '"' | '\'' => self.quote = Some(character),
                '[' | '(' | '{' => self.depth += 1,
                ',' | ')' if self.depth == 0 => return true,
                ']' | ')' | '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            },
        }
        self.text.push(character);
        false
    }
}

impl PythonCalls {
    fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Verdict {
        match self.step(character, names, found) {
            Some(true) => Verdict::Last,
            Some(false) => Verdict::More,
            None => Verdict::Bad,
        }
    }

    /// Whether the list ended; none if it is none.
    fn step(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Option<bool> {
        match self {
            Self::Begin if is_space(character) => {}
            Self::Begin if character == '[' => *self = Self::Name(String::new()),
            Self::Begin => return None,
            Self::Name(name) => match character {
                '(' if !name.is_empty() && names.has(name) => {
                    *self = Self::Argument { name: std::mem::take(name), started: false };
                }
                _ if name.is_empty() && is_space(character) => {}
                _ if python::is_name(character) => {
                    name.push(character);
                    names.has_prefix(name).then_some(())?;
                }
                _ => return None,
            },
            Self::Argument { .. } if is_space(character) => {}
            Self::Argument { name, started } => {
                if character == ')' {
                    if *started {
                        found.push(Found::Arguments("}".into()));
                    } else {
                        found.push(Found::Start(std::mem::take(name)));
                        found.push(Found::Arguments("{}".into()));
                    }
                    *self = Self::AfterCall;
                } else {
                    python::is_name(character).then_some(())?;
                    let (name, started) = (std::mem::take(name), *started);
                    *self = Self::ArgumentName { name, argument: character.into(), spaced: false, started };
                }
            }
            Self::ArgumentName { name, argument, spaced, started } => match character {
                '=' => {
                    *self = Self::Value {
                        name: std::mem::take(name),
                        argument: std::mem::take(argument),
                        value: PythonValue::default(),
                        started: *started,
                    };
                }
                _ if is_space(character) => *spaced = true,
                _ if python::is_name(character) && !*spaced => argument.push(character),
                _ => return None,
            },
            Self::Value { name, argument, value, started } => {
                if value.ends(character) {
                    let value = python::value(&value.text)?;
                    if !*started {
                        found.push(Found::Start(std::mem::take(name)));
                    }
                    let open = if *started { ", " } else { "{" };
                    let argument = serde_json::Value::String(std::mem::take(argument));
                    found.push(Found::Arguments(format!("{open}{argument}: {value}")));
                    *self = Self::Argument { name: String::new(), started: true };
                    if character == ')' {
                        return self.step(character, names, found);
                    }
                }
            }
            Self::AfterCall if is_space(character) => {}
            Self::AfterCall => {
                matches!(character, ',' | ']').then_some(())?;
                found.push(Found::End);
                *self = Self::Name(String::new());
                return Some(character == ']');
            }
        }
        Some(false)
    }
}

/// `name>{...}`, behind `<function=`.
pub(super) enum TagCall {
    Name(String),
    Begin(String),
    Arguments(JsonReader),
}

impl TagCall {
    fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Verdict {
        match self {
            Self::Name(name) if character == '>' => {
                if !names.has(name) || name.is_empty() {
                    return Verdict::Bad;
                }
                *self = Self::Begin(std::mem::take(name));
            }
            Self::Name(name) => {
                name.push(character);
                if is_space(character) || !names.has_prefix(name) {
                    return Verdict::Bad;
                }
            }
            Self::Begin(_) if is_space(character) => {}
            Self::Begin(name) if character == '<' => {
                found.push(Found::Start(std::mem::take(name)));
                found.push(Found::Arguments("{}".into()));
                found.push(Found::End);
                return Verdict::Behind;
            }
            Self::Begin(name) if character == '{' => {
                found.push(Found::Start(std::mem::take(name)));
                *self = Self::Arguments(JsonReader::new());
                return self.push(character, names, found);
            }
            Self::Begin(_) => return Verdict::Bad,
            Self::Arguments(reader) => match reader.push(character) {
                Step::More => found.push(Found::Arguments(character.into())),
                Step::Done => {
                    found.push(Found::Arguments(character.into()));
                    found.push(Found::End);
                    return Verdict::Last;
                }
                Step::Before | Step::Bad => return Verdict::Bad,
            },
        }
        Verdict::More
    }
}

/// What comes behind `<|python_tag|>`: JSON calls, a built-in tool's call, or code.
pub(super) enum Code {
    Undecided(String),
    Json(JsonCalls),
    /// `name.call(...`: how its arguments are to be cut is seen at its end.
    BuiltIn {
        name: String,
        arguments: String,
    },
    Running,
}

impl Code {
    fn push(&mut self, character: char, names: &Names, found: &mut Vec<Found>) -> Verdict {
        match self {
            Self::Json(calls) => return calls.push(character, names, found),
            Self::BuiltIn { arguments, .. } => arguments.push(character),
            Self::Running => found.push(Found::Arguments(escaped(character.encode_utf8(&mut [0; 4])))),
            Self::Undecided(text) if text.is_empty() && is_space(character) => {}
            Self::Undecided(text) if text.is_empty() && matches!(character, '{' | '[') => {
                let mut calls = JsonCalls::default();
                let verdict = calls.push(character, names, found);
                *self = Self::Json(calls);
                return verdict;
            }
            Self::Undecided(text) => {
                text.push(character);
                let known = names.0.iter().map(String::as_str).chain(BUILT_IN).filter(|name| names.has(name));
                let calls = known.map(|name| (name, format!("{name}.call(")));
                let fitting = calls.into_iter().find(|(_, call)| call.starts_with(text.as_str()));
                match fitting {
                    Some((name, call)) if call == *text => {
                        *self = Self::BuiltIn { name: name.to_owned(), arguments: String::new() };
                    }
                    Some(_) => {}
                    None => return self.run(names, found),
                }
            }
        }
        Verdict::More
    }

    /// It is code.
    fn run(&mut self, names: &Names, found: &mut Vec<Found>) -> Verdict {
        let Self::Undecided(text) = self else { return Verdict::Bad };
        let Some(tool) = names.code_tool() else { return Verdict::Bad };
        found.push(Found::Start(tool.to_owned()));
        found.push(Found::Arguments(format!("{{\"code\": \"{}", escaped(text))));
        *self = Self::Running;
        Verdict::More
    }

    fn finish(&mut self, names: &Names, found: &mut Vec<Found>) -> bool {
        if let Self::Undecided(text) = self
            && (text.is_empty() || self.run(names, found) == Verdict::Bad)
        {
            return false;
        }
        match self {
            Self::Json(calls) => calls.is_between(),
            Self::BuiltIn { name, arguments } => {
                let Some(inner) = arguments.trim_end().strip_suffix(')') else { return false };
                let Some(arguments) = python::arguments(inner).or_else(|| unescaped(inner)) else {
                    return false;
                };
                found.push(Found::Start(std::mem::take(name)));
                found.push(Found::Arguments(serde_json::Value::Object(arguments).to_string()));
                found.push(Found::End);
                true
            }
            _ => {
                found.push(Found::Arguments("\"}".into()));
                found.push(Found::End);
                true
            }
        }
    }
}

/// One argument whose value has quotes in it, as these models were taught: nothing is escaped.
fn unescaped(text: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let (name, value) = text.split_once('=')?;
    let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    let named = !name.trim().is_empty() && name.trim().chars().all(python::is_name);
    named.then(|| serde_json::Map::from_iter([(name.trim().to_owned(), value.into())]))
}

/// A text inside of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
