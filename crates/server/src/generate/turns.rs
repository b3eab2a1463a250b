//! Turns with several calls, for templates that know one call at a time: each call becomes a turn of its own, with its
//! result behind it.

use alti_text::Message;
use serde_json::Value;
use std::collections::{HashMap, HashSet, VecDeque};

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
    let known: HashSet<String> = turn.tool_calls.iter().map(|call| call["id"].to_string()).collect();
    let id = |result: &Message| result.extra.get("tool_call_id").map(Value::to_string);
    let mut named: HashMap<String, VecDeque<usize>> = HashMap::new();
    let mut others = VecDeque::new();
    for (index, result) in results.iter().enumerate() {
        match id(result).filter(|id| known.contains(id)) {
            Some(id) => named.entry(id).or_default().push_back(index),
            None => others.push_back(index),
        }
    }
    let mut is_told = vec![false; results.len()];
    // What the turn says, and all else of it, comes once.
    let (mut content, mut extra) = (turn.content.clone(), turn.extra.clone());
    for call in &turn.tool_calls {
        into.push(Message {
            role: turn.role.clone(),
            content: content.take(),
            tool_calls: vec![call.clone()],
            extra: std::mem::take(&mut extra),
        });
        let own = named.get_mut(&call["id"].to_string()).and_then(VecDeque::pop_front);
        if let Some(index) = own.or_else(|| others.pop_front()) {
            is_told[index] = true;
            into.push(results[index].clone());
        }
    }
    into.extend(
        results.iter().zip(is_told).filter(|(_, is_told)| !is_told).map(|(result, _)| result.clone()),
    );
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
