//! Turns with several calls, for templates that know one call at a time: each call becomes a turn of its own, with its
//! result behind it.

use alti_text::Message;
use serde_json::Value;
use std::collections::VecDeque;

/// The same conversation with at most one call in a turn; nothing if it is so already.
pub(super) fn one_call_each(messages: &[Message]) -> Option<Vec<Message>> {
    messages.iter().find(|message| message.tool_calls.len() > 1)?;
    let mut apart = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let [message, behind @ ..] = rest {
        rest = behind;
        if message.tool_calls.len() < 2 {
            apart.push(message.clone());
            continue;
        }
        let results = behind.iter().take_while(|next| next.role == "tool").count();
        let (results, behind) = behind.split_at(results);
        split(message, results, &mut apart);
        rest = behind;
    }
    Some(apart)
}

/// Gives each of a turn's calls a turn with its result: the one with its id, or else the first that names no call.
fn split(turn: &Message, results: &[Message], into: &mut Vec<Message>) {
    let is_called = |id: &Value| turn.tool_calls.iter().any(|call| call["id"] == *id);
    let id = |result: &Message| result.extra.get("tool_call_id").cloned().filter(|id| is_called(id));
    let (mut named, mut others): (VecDeque<_>, VecDeque<_>) =
        results.iter().partition(|result| id(result).is_some());
    let mut content = turn.content.clone();
    for call in &turn.tool_calls {
        into.push(Message { content: content.take(), tool_calls: vec![call.clone()], ..turn.clone() });
        let own = named.iter().position(|result| id(result).as_ref() == call.get("id"));
        let result = own.and_then(|place| named.remove(place)).or_else(|| others.pop_front());
        into.extend(result.cloned());
    }
    into.extend(named.into_iter().chain(others).cloned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn calling(ids: &[Value]) -> Message {
        let call = |id: &Value| json!({ "id": id, "function": { "name": "f", "arguments": {} } });
        Message { tool_calls: ids.iter().map(call).collect(), ..Message::text("assistant", "I look.") }
    }

    fn result(id: Value, text: &str) -> Message {
        let mut message = Message::text("tool", text);
        if !id.is_null() {
            message.extra.insert("tool_call_id".into(), id);
        }
        message
    }

    /// A turn in a few letters: its calls' ids, or what it says.
    fn short(messages: &[Message]) -> Vec<String> {
        let one = |message: &Message| match &message.content {
            Some(alti_text::Content::Text(text)) if message.tool_calls.is_empty() => text.clone(),
            content => {
                let ids: Vec<String> = message.tool_calls.iter().map(|call| call["id"].to_string()).collect();
                format!("{}{}", if content.is_some() { "+" } else { "" }, ids.join(""))
            }
        };
        messages.iter().map(one).collect()
    }

    #[test]
    fn each_call_is_followed_by_its_result() {
        let user = Message::text("user", "go");
        let (first, second) = (result(json!(1), "one"), result(json!(2), "two"));
        let said =
            [user.clone(), calling(&[json!(1), json!(2)]), second.clone(), first.clone(), user.clone()];
        assert_eq!(short(&one_call_each(&said).unwrap()), ["go", "+1", "one", "2", "two", "go"]);
        // Without ids it is the order that says it; what belongs to no call is not lost.
        let said =
            [calling(&[Value::Null, Value::Null]), result(Value::Null, "a"), result(json!(7), "b"), first];
        assert_eq!(short(&one_call_each(&said).unwrap()), ["+null", "a", "null", "b", "one"]);
        let said = [calling(&[json!(1), json!(2)]), second];
        assert_eq!(short(&one_call_each(&said).unwrap()), ["+1", "2", "two"]);
        assert_eq!(one_call_each(&[calling(&[json!(1)]), user]), None);
    }
}
