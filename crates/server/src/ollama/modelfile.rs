//! Modelfiles: what Ollama makes models from. What names and settings are made of is read; what says how Ollama's own code
//! runs a model is passed over, and instructions that are none are refused by name.

use super::shared::setting;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::models::Alias;
use alti_text::{Content, Message};
use serde_json::{Map, Value};

/// The longest Modelfile.
const MOST_BYTES: usize = 1 << 20;

/// Lines that are left, with their numbers.
struct Lines<'a> {
    rest: std::iter::Enumerate<std::str::Lines<'a>>,
    /// That no line that is left ends with a quote is known: nobody looks for one again.
    has_no_quote: bool,
}

/// Reads a Modelfile.
///
/// # Errors
/// An instruction that is none, or no `FROM`.
pub(super) fn read(text: &str) -> ApiResult<Alias> {
    if text.len() > MOST_BYTES {
        return Err(ApiError::field("modelfile", format!("the Modelfile is longer than {MOST_BYTES} bytes")));
    }
    let mut alias = Alias::default();
    let mut lines = Lines { rest: text.lines().enumerate(), has_no_quote: false };
    while let Some((number, line)) = lines.rest.next() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            instruction(line, &mut lines, &mut alias).map_err(|problem| {
                ApiError::field("modelfile", format!("Modelfile: line {}: {problem}", number + 1))
            })?;
        }
    }
    if alias.from.is_empty() {
        return Err(ApiError::field("modelfile", "Modelfile: there is no FROM"));
    }
    check(&alias)?;
    Ok(alias)
}

/// Reads an instruction, which may go on in the lines that follow.
fn instruction(line: &str, lines: &mut Lines<'_>, alias: &mut Alias) -> Result<(), String> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = name.to_ascii_uppercase();
    let mut value = |text: &str| value_of(text.trim(), lines).ok_or("the quotes are not closed");
    let pair = |what: &str| {
        rest.trim().split_once(char::is_whitespace).ok_or_else(|| format!("a {what} has a name and a value"))
    };
    match name.as_str() {
        "FROM" => alias.from = value(rest)?,
        "SYSTEM" => alias.system = Some(value(rest)?),
        "TEMPLATE" => set_template(alias, value(rest)?),
        "ADAPTER" => alias.adapter = Some(value(rest)?.into()),
        "LICENSE" => alias.license = Some(value(rest)?),
        "PARAMETER" => {
            let (name, text) = pair("parameter")?;
            // As they are told: `"\n"` is a new line.
            let told = serde_json::from_str::<String>(text.trim()).map(Value::String);
            let given = told.or_else(|_| value(text).map(|text| scalar(&text)))?;
            set_parameter(&mut alias.parameters, name, given);
        }
        "MESSAGE" => {
            let (role, text) = pair("message").map_err(|_| "a message has a role and a text".to_owned())?;
            alias.messages.push(Message::text(role.to_lowercase(), value(text)?));
        }
        // They name code of Ollama's own: how prompts are written and answers are read is known of the model here.
        "RENDERER" | "PARSER" | "REQUIRES" => drop(value(rest)?),
        other => return Err(format!("there is no instruction `{}`", excerpt(other))),
    }
    Ok(())
}

/// A value that may go over several lines between `"""` or `"`.
fn value_of(first: &str, lines: &mut Lines<'_>) -> Option<String> {
    if let Some(rest) = first.strip_prefix("\"\"\"") {
        return until(rest, "\"\"\"", lines);
    }
    let Some(rest) = first.strip_prefix('"') else { return Some(first.to_owned()) };
    match rest.strip_suffix('"') {
        Some(inner) => Some(inner.to_owned()),
        // More quotes in the line are part of what it says.
        None if rest.contains('"') || lines.has_no_quote => Some(first.to_owned()),
        None => {
            let before = lines.rest.clone();
            let found = until(rest, "\"", lines);
            if found.is_none() {
                // It begins with a quote that is one, and the lines are what they are.
                (lines.rest, lines.has_no_quote) = (before, true);
            }
            Some(found.unwrap_or_else(|| first.to_owned()))
        }
    }
}

/// What comes up to a line that ends with `end`.
fn until(first: &str, end: &str, lines: &mut Lines<'_>) -> Option<String> {
    if let Some(inner) = first.strip_suffix(end) {
        return Some(inner.to_owned());
    }
    let mut text = first.to_owned();
    for (_, line) in &mut lines.rest {
        text.push('\n');
        match line.trim_end().strip_suffix(end) {
            Some(last) => {
                text.push_str(last);
                return Some(text);
            }
            None => text.push_str(line),
        }
    }
    None
}

/// A number or word out of a Modelfile.
fn scalar(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Sets a parameter; `stop` may be given several times. What is none of the sampler's, like `num_ctx`, is kept to be shown:
/// how much is kept in memory is the server's setting.
pub(super) fn set_parameter(parameters: &mut Map<String, Value>, name: &str, value: Value) {
    let (name, value) = setting(name, value);
    if value.is_null() {
        return;
    }
    if name == "stop" {
        let mut stops = match parameters.remove("stop") {
            Some(Value::Array(stops)) => stops,
            _ => Vec::new(),
        };
        match value {
            Value::Array(more) => stops.extend(more),
            one => stops.push(one),
        }
        parameters.insert("stop".into(), Value::Array(stops));
    } else {
        parameters.insert(name.to_owned(), value);
    }
}

/// Keeps a template. One in Go's notation stays out: the model's own, in Jinja, says the same.
pub(super) fn set_template(alias: &mut Alias, template: String) {
    let is_go = ["{{ .", "{{.", "{{- .", "{{ range", "{{- range", "{{ if .", "{{- if .", "{{ $", "{{- $"];
    if !template.is_empty() && !is_go.iter().any(|sign| template.contains(sign)) {
        alias.template = Some(template);
    }
}

/// Checks an alias's settings and turns.
///
/// # Errors
/// One that is none.
pub(super) fn check(alias: &Alias) -> ApiResult<()> {
    let parameters = alias.parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
    crate::generate::sampling(&alti_engine::sampling::SamplerSettings::default(), parameters)?;
    if !alias.messages.is_empty() {
        crate::generate::check_messages(alias.messages.clone(), "messages")?;
    }
    Ok(())
}

/// An alias's parameters under Ollama's names, one for each value.
pub(super) fn parameters(alias: &Alias) -> impl Iterator<Item = (&str, &Value)> {
    alias.parameters.iter().flat_map(|(name, value)| {
        let name = if name == "max_tokens" { "num_predict" } else { name };
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        values.iter().map(move |value| (name, value))
    })
}

/// The Modelfile that makes an alias from the model `from`.
pub(super) fn write(from: &str, alias: &Alias) -> String {
    let mut text = format!("FROM {from}\n");
    let mut line = |line: String| text.extend([line.as_str(), "\n"]);
    if let Some(adapter) = &alias.adapter {
        line(format!("ADAPTER {}", adapter.display()));
    }
    if let Some(template) = &alias.template {
        line(format!("TEMPLATE {}", quoted(template)));
    }
    if let Some(system) = &alias.system {
        line(format!("SYSTEM {}", quoted(system)));
    }
    parameters(alias).for_each(|(name, value)| line(format!("PARAMETER {name} {value}")));
    for message in &alias.messages {
        line(format!("MESSAGE {} {}", message.role, quoted(said(message))));
    }
    if let Some(license) = &alias.license {
        line(format!("LICENSE {}", quoted(license)));
    }
    text
}

/// The text of an alias's turn.
pub(super) fn said(message: &Message) -> &str {
    match &message.content {
        Some(Content::Text(text)) => text,
        _ => "",
    }
}

fn quoted(text: &str) -> String {
    format!("\"\"\"{text}\"\"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_modelfile_is_read() {
        let text = "# mine\nFROM llama3.2\nPARAMETER temperature 0.2\nparameter stop \"<end>\"\nPARAMETER stop STOP\n\
                    PARAMETER num_ctx 4096\nSYSTEM \"\"\"You are\nbrief.\"\"\"\nTEMPLATE \"\"\"{{ .System }}\"\"\"\n\
                    MESSAGE user hi there\n";
        let alias = read(text).unwrap();
        assert_eq!((alias.from.as_str(), alias.system.as_deref()), ("llama3.2", Some("You are\nbrief.")));
        assert_eq!(
            Value::Object(alias.parameters),
            json!({ "temperature": 0.2, "stop": ["<end>", "STOP"], "num_ctx": 4096 })
        );
        assert_eq!((alias.template, alias.messages.len()), (None, 1));
    }

    #[test]
    fn values_go_over_lines_and_ollamas_own_code_is_passed_over() {
        let text = "FROM x\nSYSTEM \"You are\nbrief.\"\nMESSAGE User \"\"\"hi\nthere\"\"\"\nRENDERER qwen3\nPARSER qwen3\n\
                    REQUIRES 0.14.0\nMESSAGE assistant \"Yes\" he said\nPARAMETER num_predict 12.0\nLICENSE \"open\nMESSAGE user b";
        let alias = read(text).unwrap();
        let turns: Vec<_> = alias.messages.iter().map(|it| (it.role.as_str(), said(it))).collect();
        assert_eq!(turns, [("user", "hi\nthere"), ("assistant", "\"Yes\" he said"), ("user", "b")]);
        assert_eq!(
            (alias.system.as_deref(), alias.license.as_deref()),
            (Some("You are\nbrief."), Some("\"open"))
        );
        let again = read(&write(&alias.from, &alias)).unwrap();
        assert_eq!(again, alias);
        assert!(write("x", &alias).contains("PARAMETER num_predict 12\n"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = |text: &str| read(text).unwrap_err().message;
        assert!(error("FROM x\nFLY away").contains("line 2: there is no instruction `FLY`"));
        assert!(error("SYSTEM hi").contains("no FROM"));
        assert!(error("FROM x\nSYSTEM \"\"\"hi").contains("line 2: the quotes are not closed"));
        assert!(error("FROM x\nPARAMETER temperature hot").contains("temperature"));
        assert!(error("FROM x\nPARAMETER temperature").contains("a name and a value"));
    }

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let alias = read(
            "FROM x\nSYSTEM \"\"\"\n\nBe brief.\n\"\"\"\nPARAMETER stop \"\\n\"\nPARAMETER stop \"a b\"",
        )
        .unwrap();
        assert_eq!(alias.system.as_deref(), Some("\n\nBe brief.\n"));
        assert_eq!(alias.parameters["stop"], json!(["\n", "a b"]));
        assert_eq!(read(&write("x", &alias)).unwrap(), alias);
    }

    #[test]
    fn quotes_that_nothing_closes_are_looked_through_once() {
        let lines = "SYSTEM \"a\n".repeat(90_000);
        assert_eq!(read(&format!("FROM x\n{lines}")).unwrap().system.as_deref(), Some("\"a"));
    }
}
