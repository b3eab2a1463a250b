//! The notations, in one table, and which of them a model was taught.

use crate::Tokenizer;

/// A notation of tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolDialect {
    /// Llama 3.1 to 3.3: an answer that is `{"name": ..., "parameters": {...}}`, perhaps behind `<|python_tag|>`,
    /// behind which there may also be `brave_search.call(query="...")` or code to run.
    Llama3Json,
    /// Llama 4 with JSON: as Llama 3.1, between `<|python_start|>` and `<|python_end|>`.
    Llama4Json,
    /// Llama 3.2 and 4: an answer that is a list of Python calls, `[f(a=1), g(b="x")]`.
    Pythonic,
    /// `<function=name>{...}</function>` anywhere in the text.
    FunctionTag,
    /// Hermes and many fine-tunes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` anywhere in the text.
    ToolCallTag,
    /// SmolLM2: as Hermes, with a list of calls between the tags.
    ToolCallList,
}

/// What a parser has to know of a dialect.
pub(super) struct Form {
    pub(super) dialect: ToolDialect,
    /// What it is called in settings.
    pub(super) name: &'static str,
    /// What a chat template of such models says, any one of them; the first dialect with a match is taken.
    signs: &'static [&'static str],
    /// Text that opens a region of calls, wherever it stands.
    pub(super) open: &'static [&'static str],
    /// Text that closes it.
    pub(super) close: Option<&'static str>,
    /// Whether an answer may begin with a call, unannounced.
    pub(super) leads: bool,
    /// How calls are written in such a region.
    pub(super) notation: Notation,
    /// The key of the arguments, where the notation has one.
    pub(super) arguments: &'static str,
}

/// How calls are written inside of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Notation {
    /// JSON objects, or lists of them.
    Json,
    /// As [`Notation::Json`], or a built-in tool's call, or code.
    JsonOrCode,
    /// A list of Python calls.
    Python,
    /// A name, `>`, and a JSON object.
    Tag,
}

pub(super) const FORMS: [Form; 6] = [
    Form {
        dialect: ToolDialect::FunctionTag,
        name: "function-tag",
        signs: &["<function="],
        open: &["<function="],
        close: Some("</function>"),
        leads: false,
        notation: Notation::Tag,
        arguments: "",
    },
    Form {
        dialect: ToolDialect::ToolCallList,
        name: "tool-call-list",
        signs: &["<tool_call>["],
        open: &["<tool_call>"],
        close: Some("</tool_call>"),
        leads: false,
        notation: Notation::Json,
        arguments: "arguments",
    },
    Form {
        dialect: ToolDialect::ToolCallTag,
        name: "tool-call-tag",
        signs: &["<tool_call>"],
        open: &["<tool_call>"],
        close: Some("</tool_call>"),
        leads: false,
        notation: Notation::Json,
        arguments: "arguments",
    },
    Form {
        dialect: ToolDialect::Pythonic,
        name: "pythonic",
        signs: &["[func_name1(", "[func1(", "(params_name1=", "pythonic"],
        open: &["<|python_start|>"],
        close: Some("<|python_end|>"),
        leads: true,
        notation: Notation::Python,
        arguments: "",
    },
    Form {
        dialect: ToolDialect::Llama4Json,
        name: "llama4-json",
        signs: &["<|header_start|>", "<|python_start|>"],
        open: &["<|python_start|>"],
        close: Some("<|python_end|>"),
        leads: true,
        notation: Notation::Json,
        arguments: "parameters",
    },
    Form {
        dialect: ToolDialect::Llama3Json,
        name: "llama3-json",
        signs: &["<|python_tag|>", "<|start_header_id|>"],
        open: &["<|python_tag|>"],
        close: None,
        leads: true,
        notation: Notation::JsonOrCode,
        arguments: "parameters",
    },
];

impl ToolDialect {
    /// Every dialect with its name in settings.
    pub fn all() -> impl Iterator<Item = (Self, &'static str)> {
        FORMS.iter().map(|form| (form.dialect, form.name))
    }

    /// The dialect of a name in settings.
    pub fn named(name: &str) -> Option<Self> {
        FORMS.iter().find(|form| form.name == name).map(|form| form.dialect)
    }

    /// The dialect of a model, by its chat template's source; where that tells nothing, by its control tokens. A model
    /// that was taught none understands `<tool_call>` best: most that were taught one were taught that.
    pub fn detect(template: &str, tokenizer: &Tokenizer) -> Self {
        let has = |spelling: &str| tokenizer.id_of(spelling).is_some_and(|id| tokenizer.is_special(id));
        let said = FORMS.iter().find(|form| form.signs.iter().any(|sign| template.contains(sign)));
        let known = || FORMS.iter().find(|form| form.signs.iter().any(|sign| has(sign)));
        said.or_else(known).map_or(Self::ToolCallTag, |form| form.dialect)
    }

    pub(super) fn form(self) -> &'static Form {
        FORMS.iter().find(|form| form.dialect == self).expect("the table has every dialect")
    }
}
