//! Reads the file of a batch: a request a line. All that is wrong with it is told at once.

use alti_store::LineInput;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Most lines of a batch.
const MOST_LINES: usize = 50_000;

/// Most errors that are told.
const MOST_ERRORS: usize = 50;

/// The lines of a batch, and the model that they name, if they all name one.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) lines: Vec<LineInput>,
    pub(super) model: Option<String>,
}

/// Reads the lines.
///
/// # Errors
/// What is wrong with which lines.
pub(super) fn read(text: &[u8], endpoint: &str) -> Result<Input, Vec<Value>> {
    let (mut lines, mut errors, mut ids) = (Vec::new(), Vec::new(), HashSet::new());
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match read_line(line, endpoint) {
            Ok(line) if !ids.insert(line.custom_id.clone()) => {
                errors.push(error(
                    number,
                    "duplicate_custom_id",
                    "custom_id",
                    "an earlier line has this `custom_id`",
                ));
            }
            Ok(line) => lines.push(line),
            Err((code, field, message)) => errors.push(error(number, code, field, message)),
        }
        if errors.len() == MOST_ERRORS {
            break;
        }
        if lines.len() > MOST_LINES {
            let message = "the file has more than 50000 requests: make several batches of it";
            return Err(vec![error(number, "too_many_requests", "", message)]);
        }
    }
    if errors.is_empty() && lines.is_empty() {
        errors.push(error(0, "empty_file", "", "the file has no requests"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let model = lines.first().and_then(|line| line.request["model"].as_str()).map(str::to_owned);
    let model = model.filter(|model| lines.iter().all(|line| line.request["model"] == model.as_str()));
    Ok(Input { lines, model })
}

fn read_line(line: &[u8], endpoint: &str) -> Result<LineInput, (&'static str, &'static str, &'static str)> {
    let value: Value =
        serde_json::from_slice(line).map_err(|_| ("invalid_json_line", "", "the line is not JSON"))?;
    let id = value["custom_id"].as_str().filter(|id| (1..=512).contains(&id.len()));
    let id =
        id.ok_or(("invalid_custom_id", "custom_id", "`custom_id` must be a string of 1 to 512 bytes"))?;
    if value["method"] != "POST" {
        return Err(("invalid_method", "method", "`method` must be POST"));
    }
    if value["url"] != endpoint {
        return Err(("mismatched_endpoint", "url", "`url` must be the endpoint of the batch"));
    }
    let Value::Object(mut body) = value["body"].clone() else {
        return Err(("invalid_body", "body", "`body` must be an object"));
    };
    // A line has one answer, and somebody has to be there for what goes on in the background.
    body.remove("stream");
    body.remove("background");
    Ok(LineInput { custom_id: id.to_owned(), request: Value::Object(body) })
}

fn error(number: usize, code: &str, field: &str, message: &str) -> Value {
    let field = if field.is_empty() { Value::Null } else { json!(field) };
    json!({ "line": number + 1, "code": code, "param": field, "message": message })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "/v1/chat/completions";

    fn line(id: &str, body: &str) -> String {
        format!("{{\"custom_id\": \"{id}\", \"method\": \"POST\", \"url\": \"{CHAT}\", \"body\": {body}}}\n")
    }

    #[test]
    fn lines_are_read_and_what_cannot_be_in_a_batch_is_left_out() {
        let text = line("a", r#"{"model": "m", "stream": true}"#) + "\n" + &line("b", r#"{"model": "m"}"#);
        let input = read(text.as_bytes(), CHAT).unwrap();
        assert_eq!((input.lines.len(), input.model.as_deref()), (2, Some("m")));
        assert_eq!(input.lines[0].request, json!({ "model": "m" }));
        let other = text + &line("c", r#"{"model": "n"}"#);
        assert_eq!(read(other.as_bytes(), CHAT).unwrap().model, None);
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_line() {
        let text = line("a", "{}") + "x\n" + &line("a", "{}") + &line("", "{}") + &line("b", "3");
        let errors = read(text.as_bytes(), CHAT).unwrap_err();
        let told: Vec<(u64, &str)> =
            errors.iter().map(|it| (it["line"].as_u64().unwrap(), it["code"].as_str().unwrap())).collect();
        let expected = [
            (2, "invalid_json_line"),
            (3, "duplicate_custom_id"),
            (4, "invalid_custom_id"),
            (5, "invalid_body"),
        ];
        assert_eq!(told, expected);
        assert_eq!(read(b"", CHAT).unwrap_err()[0]["code"], "empty_file");
        assert_eq!(
            read(line("a", "{}").as_bytes(), "/v1/embeddings").unwrap_err()[0]["code"],
            "mismatched_endpoint"
        );
    }
}
