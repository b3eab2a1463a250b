//! Modelfiles: what Ollama makes models from. Only what names and settings are made of is read; the rest is refused by
//! name, so that nobody believes in what has no effect.

use super::shared::most_tokens;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::models::Alias;
use alti_text::Message;
use serde_json::{Map, Value};

/// The longest Modelfile.
const MOST_BYTES: usize = 1 << 20;

/// Reads a Modelfile.
///
/// # Errors
/// An instruction that is none, or no `FROM`.
pub(super) fn read(text: &str) -> ApiResult<Alias> {
    if text.len() > MOST_BYTES {
        return Err(ApiError::field("modelfile", format!("the Modelfile is longer than {MOST_BYTES} bytes")));
    }
    let mut alias = Alias::default();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem: &str| {
            ApiError::field("modelfile", format!("Modelfile: line {}: {problem}", number + 1))
        };
        let (instruction, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value_of(value.trim(), &mut lines).ok_or_else(|| wrong("the quotes are not closed"))?;
        match instruction.to_ascii_uppercase().as_str() {
            "FROM" => alias.from = value,
            "SYSTEM" => alias.system = Some(value),
            "TEMPLATE" => set_template(&mut alias, value),
            "ADAPTER" => alias.adapter = Some(value.into()),
            "LICENSE" => alias.license = Some(value),
            "PARAMETER" => {
                let (name, value) = value
                    .split_once(char::is_whitespace)
                    .ok_or_else(|| wrong("a parameter has a name and a value"))?;
                set_parameter(&mut alias.parameters, name, scalar(value.trim().trim_matches('"')));
            }
            "MESSAGE" => {
                let (role, text) = value
                    .split_once(char::is_whitespace)
                    .ok_or_else(|| wrong("a message has a role and a text"))?;
                alias.messages.push(Message::text(role, text.trim()));
            }
            other => return Err(wrong(&format!("there is no instruction `{}`", excerpt(other)))),
        }
    }
    if alias.from.is_empty() {
        return Err(ApiError::field("modelfile", "Modelfile: there is no FROM"));
    }
    check(&alias)?;
    Ok(alias)
}

/// A value that may go over several lines between `"""`.
fn value_of<'a>(first: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<String> {
    let Some(rest) = first.strip_prefix("\"\"\"") else {
        let inner = first.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        return Some(inner.unwrap_or(first).to_owned());
    };
    if let Some(inner) = rest.strip_suffix("\"\"\"") {
        return Some(inner.to_owned());
    }
    let mut text = rest.to_owned();
    for (_, line) in lines {
        if !text.is_empty() {
            text.push('\n');
        }
        match line.trim_end().strip_suffix("\"\"\"") {
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

/// Sets a parameter; `stop` may be given several times.
pub(super) fn set_parameter(parameters: &mut Map<String, Value>, name: &str, value: Value) {
    let value = if name == "num_predict" { most_tokens(value) } else { value };
    let name = match name {
        "num_predict" => "max_tokens",
        // How much is kept in memory is the server's setting.
        "num_ctx" | "num_gpu" | "num_thread" | "num_keep" | "num_batch" => return,
        name => name,
    };
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
        assert_eq!(Value::Object(alias.parameters), json!({ "temperature": 0.2, "stop": ["<end>", "STOP"] }));
        assert_eq!((alias.template, alias.messages.len()), (None, 1));
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
}
