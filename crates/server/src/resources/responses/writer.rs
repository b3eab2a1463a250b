//! The events of a response, in the order and with the numbers that the OpenAI API has them in; and the response object,
//! which grows with them.

use super::body;
use super::live::Live;
use super::search::{results, without_results};
use crate::ids;
use crate::mcp::OfferedTool;
use crate::resources::citations::citations;
use alti_engine::serving::Usage;
use alti_store::Hit;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Tells what happens to a response.
pub(super) struct Writer {
    live: Arc<Live>,
    body: Value,
    open: Option<Open>,
    /// Log-probabilities of tokens whose text has not come: nobody knows yet whether they say something or call something.
    pending: Vec<Value>,
    /// The passages that the answer may cite.
    hits: Vec<Hit>,
    /// Whether events tell what searches found; the response object that is kept does.
    tells_results: bool,
}

/// An item that is being written: the last of the output.
enum Open {
    Message { id: String, text: String, logprobs: Vec<Value> },
    Call { id: String, arguments: String },
}

impl Writer {
    pub(super) fn new(live: Arc<Live>, tells_results: bool) -> Writer {
        let body = live.body();
        Writer { live, body, open: None, pending: Vec::new(), hits: Vec::new(), tells_results }
    }

    /// An event with the next number: one that was never told has not taken any.
    fn event(&mut self, kind: &str, fields: Value) -> Value {
        let mut event = Map::new();
        event.insert("type".into(), json!(kind));
        event.insert("sequence_number".into(), json!(self.live.count()));
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        Value::Object(event)
    }

    fn tell(&mut self, kind: &str, fields: Value) {
        let event = self.event(kind, fields);
        self.live.tell(event);
    }

    fn tell_response(&mut self, kind: &str) {
        self.live.show(self.body.clone());
        let response = self.told();
        self.tell(kind, json!({ "response": response }));
    }

    /// The response is there.
    pub(super) fn created(&mut self) {
        self.tell_response("response.created");
        if self.body["status"] == "queued" {
            self.tell_response("response.queued");
        }
    }

    /// The response is being worked on.
    pub(super) fn in_progress(&mut self) {
        self.body["status"] = json!("in_progress");
        self.tell_response("response.in_progress");
    }

    fn output(&mut self) -> &mut Vec<Value> {
        if !self.body["output"].is_array() {
            self.body["output"] = json!([]);
        }
        match &mut self.body["output"] {
            Value::Array(output) => output,
            _ => unreachable!("it was made a list right above"),
        }
    }

    /// The place of the item that is being written.
    fn index(&self) -> usize {
        self.body["output"].as_array().map_or(0, |output| output.len().saturating_sub(1))
    }

    fn add_item(&mut self, item: Value) {
        self.output().push(item.clone());
        self.live.show(self.body.clone());
        let index = self.index();
        self.tell("response.output_item.added", json!({ "output_index": index, "item": item }));
    }

    /// The item that is being written is done and looks like this.
    fn end_item(&mut self, item: Value) {
        let index = self.index();
        if let Some(last) = self.output().last_mut() {
            *last = item.clone();
        }
        self.live.show(self.body.clone());
        let item = if self.tells_results { item } else { without_results(item) };
        self.tell("response.output_item.done", json!({ "output_index": index, "item": item }));
    }

    /// Files were searched.
    pub(super) fn searched(&mut self, queries: &[String], hits: Vec<Hit>) {
        let id = ids::new("fs_");
        let item = |status: &str, results: Value| {
            json!({
                "id": id,
                "type": "file_search_call",
                "status": status,
                "queries": queries,
                "results": results,
            })
        };
        self.add_item(item("in_progress", Value::Null));
        let index = self.index();
        for step in ["in_progress", "searching", "completed"] {
            let kind = format!("response.file_search_call.{step}");
            self.tell(&kind, json!({ "output_index": index, "item_id": id }));
        }
        self.end_item(item("completed", json!(results(&hits))));
        self.hits = hits;
    }

    /// What an MCP server offers.
    pub(super) fn listed(&mut self, server: &str, tools: &[&OfferedTool]) {
        let id = ids::new("mcpl_");
        let described = tools.iter().map(|tool| {
            json!({"name": tool.tool, "description": tool.description, "input_schema": tool.parameters,
                "annotations": null})
        });
        let described: Value = described.collect();
        let item = |tools: Value| json!({"id": id, "type": "mcp_list_tools", "server_label": server, "tools": tools, "error": null});
        self.add_item(item(json!([])));
        let place = json!({ "output_index": self.index(), "item_id": id });
        for step in ["in_progress", "completed"] {
            self.tell(&format!("response.mcp_list_tools.{step}"), place.clone());
        }
        self.end_item(item(described));
    }

    /// A call to an MCP server has to be approved before it is made.
    pub(super) fn asked(&mut self, tool: &OfferedTool, arguments: &str) {
        self.close("completed");
        self.pending.clear();
        let item = json!({"id": ids::new("mcpr_"), "type": "mcp_approval_request", "server_label": tool.server,
            "name": tool.tool, "arguments": arguments});
        self.add_item(item.clone());
        self.end_item(item);
    }

    /// A call to an MCP server was made, or could not be; `approval` is the id of the request to approve it, if there was one.
    pub(super) fn called(
        &mut self,
        tool: &OfferedTool,
        arguments: &str,
        outcome: Result<&str, &str>,
        approval: Option<&str>,
    ) {
        self.close("completed");
        self.pending.clear();
        let id = ids::new("mcp_");
        let error = outcome.err().map(execution_error);
        let item = |status: &str, arguments: &str| {
            json!({"id": id, "type": "mcp_call", "status": status, "approval_request_id": approval,
                "server_label": tool.server, "name": tool.tool, "arguments": arguments,
                "output": outcome.ok().filter(|_| status != "in_progress"),
                "error": error.as_ref().filter(|_| status != "in_progress")})
        };
        self.add_item(item("in_progress", ""));
        let index = self.index();
        let status = if outcome.is_ok() { "completed" } else { "failed" };
        for (step, name) in [
            ("mcp_call.in_progress", None),
            ("mcp_call_arguments.delta", Some("delta")),
            ("mcp_call_arguments.done", Some("arguments")),
            (if outcome.is_ok() { "mcp_call.completed" } else { "mcp_call.failed" }, None),
        ] {
            let mut fields = json!({ "output_index": index, "item_id": id });
            if let Some(name) = name {
                fields[name] = json!(arguments);
            }
            self.tell(&format!("response.{step}"), fields);
        }
        self.end_item(item(status, arguments));
    }

    /// Text follows. Without any, the tokens are of text that comes later, or of a call.
    pub(super) fn text(&mut self, delta: &str, logprobs: Vec<Value>) {
        // Behind a call only what comes last can be the beginning of a text.
        if matches!(self.open, Some(Open::Call { .. })) && !logprobs.is_empty() {
            self.pending.clear();
        }
        self.pending.extend(logprobs);
        if !delta.is_empty() {
            self.say(delta);
        }
    }

    /// Tells text, and the tokens so far.
    fn say(&mut self, delta: &str) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close("completed");
            self.open_message();
        }
        let index = self.index();
        let Some(Open::Message { id, text, logprobs: all }) = &mut self.open else { return };
        let (id, logprobs) = (id.clone(), std::mem::take(&mut self.pending));
        text.push_str(delta);
        self.live.grow(delta);
        all.extend(logprobs.iter().cloned());
        let fields = json!({
            "item_id": id,
            "output_index": index,
            "content_index": 0,
            "delta": delta,
            "logprobs": logprobs,
        });
        self.tell("response.output_text.delta", fields);
    }

    fn open_message(&mut self) {
        let id = ids::new("msg_");
        self.add_item(message(&id, "in_progress", None));
        let fields = json!({
            "item_id": id,
            "output_index": self.index(),
            "content_index": 0,
            "part": part("", Vec::new(), &[]),
        });
        self.tell("response.content_part.added", fields);
        self.open = Some(Open::Message { id, text: String::new(), logprobs: Vec::new() });
    }

    /// A function is called.
    pub(super) fn call(&mut self, call_id: &str, name: &str) {
        self.close("completed");
        self.pending.clear();
        let id = ids::new("fc_");
        self.add_item(json!({
            "id": id,
            "type": "function_call",
            "status": "in_progress",
            "call_id": call_id,
            "name": name,
            "arguments": "",
        }));
        self.open = Some(Open::Call { id, arguments: String::new() });
    }

    /// Arguments of the call follow.
    pub(super) fn arguments(&mut self, delta: &str) {
        let index = self.index();
        let Some(Open::Call { id, arguments }) = &mut self.open else { return };
        arguments.push_str(delta);
        self.live.grow(delta);
        let fields = json!({ "item_id": id.clone(), "output_index": index, "delta": delta });
        self.tell("response.function_call_arguments.delta", fields);
    }

    /// The item that is being written is at its end.
    fn close(&mut self, status: &str) {
        match self.open.take() {
            None => {}
            Some(Open::Message { id, text, logprobs }) => self.close_message(&id, &text, &logprobs, status),
            Some(Open::Call { id, arguments }) => {
                let mut item = self.output().last().cloned().unwrap_or_default();
                let fields = json!({
                    "item_id": id,
                    "output_index": self.index(),
                    "name": item["name"],
                    "arguments": arguments,
                });
                self.tell("response.function_call_arguments.done", fields);
                item["arguments"] = json!(arguments);
                item["status"] = json!(status);
                self.end_item(item);
            }
        }
    }

    fn close_message(&mut self, id: &str, text: &str, logprobs: &[Value], status: &str) {
        let place = |fields: Value| {
            let mut place = json!({ "item_id": id, "content_index": 0 });
            if let (Value::Object(place), Value::Object(fields)) = (&mut place, fields) {
                place.extend(fields);
            }
            place
        };
        let index = self.index();
        let fields = place(json!({ "output_index": index, "text": text, "logprobs": logprobs }));
        self.tell("response.output_text.done", fields);
        let cited = citations(text, &self.hits);
        for (number, annotation) in cited.iter().enumerate() {
            let fields =
                json!({ "output_index": index, "annotation_index": number, "annotation": annotation });
            self.tell("response.output_text.annotation.added", place(fields));
        }
        let part = part(text, cited, logprobs);
        let fields = place(json!({ "output_index": index, "part": part }));
        self.tell("response.content_part.done", fields);
        self.end_item(message(id, status, Some(part)));
    }

    /// The response ended as `completed`, `incomplete` (for a reason) or `cancelled`. Returns its last event, which is told
    /// when it is stored.
    pub(super) fn end(&mut self, status: &str, reason: Option<&str>, usage: Option<&Usage>) -> Value {
        let whole = status == "completed";
        if whole && self.open.is_none() && self.output().last().is_none_or(|item| !is_said(item)) {
            self.open_message();
        }
        // Tokens that had no text after all.
        if matches!(self.open, Some(Open::Message { .. })) && !self.pending.is_empty() {
            self.say("");
        }
        self.close(if whole { "completed" } else { "incomplete" });
        self.body["status"] = json!(status);
        if let Some(reason) = reason {
            self.body["incomplete_details"] = json!({ "reason": reason });
        }
        self.body["usage"] = usage.map_or(Value::Null, body::usage);
        if whole {
            self.body["completed_at"] = json!(alti_store::now());
        }
        let kind = if whole { "response.completed" } else { "response.incomplete" };
        let response = self.told();
        self.event(kind, json!({ "response": response }))
    }

    /// The response failed. Returns its last event.
    pub(super) fn fail(&mut self, code: &str, message: &str) -> Value {
        self.close("incomplete");
        fail(&mut self.body, code, message);
        let response = self.told();
        self.event("response.failed", json!({ "response": response }))
    }

    /// The response object as events tell it.
    pub(super) fn told(&self) -> Value {
        let body = self.body.clone();
        if self.tells_results { body } else { without_results(body) }
    }

    /// The response object as it is now, with what searches found.
    pub(super) fn body(&self) -> &Value {
        &self.body
    }

    /// Tells the last event.
    pub(super) fn last(&mut self, event: Value) {
        self.live.show(self.body.clone());
        self.live.tell(event);
        self.live.finish();
    }
}

/// Makes a response object one that failed.
pub(super) fn fail(body: &mut Value, code: &str, message: &str) {
    body["status"] = json!("failed");
    body["completed_at"] = Value::Null;
    body["error"] = json!({ "code": code, "message": message });
}

/// Whether an item is the model's answer, not what was done for it.
fn is_said(item: &Value) -> bool {
    !matches!(item["type"].as_str(), Some("file_search_call" | "mcp_call" | "mcp_list_tools"))
}

/// What went wrong with a call to an MCP server: parts of text, as the server's results are.
fn execution_error(text: &str) -> Value {
    json!({ "type": "mcp_tool_execution_error", "content": [{ "type": "text", "text": text }] })
}

/// A message of the assistant's.
fn message(id: &str, status: &str, part: Option<Value>) -> Value {
    json!({
        "id": id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": part.into_iter().collect::<Vec<_>>(),
    })
}

/// Shows what has been written of an item that is not done.
pub(super) fn show_open(item: &mut Value, written: &str) {
    match item["type"].as_str() {
        Some("message") => item["content"] = json!([part(written, Vec::new(), &[])]),
        Some("function_call") => item["arguments"] = json!(written),
        _ => {}
    }
}

fn part(text: &str, annotations: Vec<Value>, logprobs: &[Value]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(live: &Live) -> Vec<String> {
        let events = live.events_now(0);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        events
            .iter()
            .map(|event| event["type"].as_str().unwrap().trim_start_matches("response.").to_owned())
            .collect()
    }

    #[test]
    fn events_come_in_the_order_of_the_api() {
        let live =
            Arc::new(Live::new(String::new(), false, json!({ "status": "in_progress", "output": [] })));
        let mut writer = Writer::new(live.clone(), false);
        writer.created();
        writer.in_progress();
        writer.text("Hel", Vec::new());
        writer.text("lo", Vec::new());
        let so_far = live.body();
        assert_eq!(so_far["output"][0]["content"][0]["text"], "Hello");
        assert_eq!(so_far["output"][0]["status"], "in_progress");
        writer.call("call_1", "weather");
        writer.arguments("{\"a\":");
        assert_eq!(live.body()["output"][1]["arguments"], "{\"a\":");
        writer.arguments("1}");
        let last = writer.end("completed", None, Some(&Usage::default()));
        writer.last(last);
        let expected = "created in_progress output_item.added content_part.added output_text.delta output_text.delta \
                        output_text.done content_part.done output_item.done output_item.added \
                        function_call_arguments.delta function_call_arguments.delta function_call_arguments.done \
                        output_item.done completed";
        assert_eq!(told(&live).join(" "), expected);
        let body = live.body();
        assert_eq!(body["output"][0]["content"][0]["text"], "Hello");
        assert_eq!(body["output"][1]["arguments"], "{\"a\":1}");
        assert_eq!(
            (&body["status"], &body["output"][1]["status"]),
            (&json!("completed"), &json!("completed"))
        );
    }

    #[test]
    fn an_answer_that_was_cut_off_is_incomplete_and_so_is_its_last_item() {
        let live = Arc::new(Live::new(String::new(), true, json!({ "status": "queued", "output": [] })));
        let mut writer = Writer::new(live.clone(), false);
        writer.created();
        writer.in_progress();
        writer.text("Hel", Vec::new());
        let last = writer.end("incomplete", Some("max_output_tokens"), None);
        assert_eq!(last["type"], "response.incomplete");
        writer.last(last);
        assert_eq!(told(&live)[..3], ["created", "queued", "in_progress"]);
        assert_eq!(live.body()["output"][0]["status"], "incomplete");
        assert_eq!(live.body()["incomplete_details"]["reason"], "max_output_tokens");
    }

    #[test]
    fn tokens_of_calls_are_not_those_of_text() {
        let live = Arc::new(Live::new(String::new(), false, json!({ "status": "in_progress" })));
        let mut writer = Writer::new(live.clone(), false);
        let token = |text: &str| vec![json!({ "token": text, "logprob": -0.5 })];
        writer.text("", token("Lo"));
        writer.text("Look", token("ok"));
        writer.text("", token("<call>"));
        writer.call("call_1", "weather");
        writer.text("", token("{}"));
        writer.arguments("{}");
        writer.text("", token("</call>"));
        writer.text("", token("So"));
        writer.text("So", Vec::new());
        writer.text("", token("<end>"));
        let last = writer.end("completed", None, None);
        writer.last(last);
        let output = live.body()["output"].clone();
        let kinds: Vec<_> = output.as_array().unwrap().iter().map(|item| &item["type"]).collect();
        assert_eq!(kinds, ["message", "function_call", "message"]);
        assert_eq!(output[1]["arguments"], "{}");
        let tokens = |item: &Value| -> String {
            let logprobs = item["content"][0]["logprobs"].as_array().unwrap();
            logprobs.iter().filter_map(|entry| entry["token"].as_str()).collect()
        };
        assert_eq!((tokens(&output[0]), tokens(&output[2])), ("Look".to_owned(), "So<end>".to_owned()));
    }

    #[test]
    fn an_empty_answer_is_an_empty_message() {
        let live = Arc::new(Live::new(String::new(), false, json!({ "status": "in_progress" })));
        let mut writer = Writer::new(live.clone(), false);
        let last = writer.end("completed", None, None);
        writer.last(last);
        assert_eq!(live.body()["output"][0]["content"][0]["text"], "");
    }
}
