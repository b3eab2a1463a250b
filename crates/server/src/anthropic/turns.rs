//! Turns that follow one another in the same role.

use alti_text::{Content, Message};

/// Makes one turn of the turns of a role that follow one another, as Anthropic and Ollama do: templates of some models
/// want turns to alternate, and refuse a conversation that does not.
pub(crate) fn join_turns(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match joined.last_mut() {
            Some(before) if goes_on(before, &message) => append(before, message),
            _ => joined.push(message),
        }
    }
    joined
}

/// Whether a turn can be told as the rest of the one before. One that calls tools ends there: their results belong to it.
fn goes_on(before: &Message, next: &Message) -> bool {
    let is_plain = |message: &Message| {
        message.extra.is_empty() && matches!(message.content, None | Some(Content::Text(_)))
    };
    before.role == next.role
        && before.role != "tool"
        && before.tool_calls.is_empty()
        && is_plain(before)
        && is_plain(next)
}

fn append(before: &mut Message, next: Message) {
    before.tool_calls = next.tool_calls;
    before.content = match (before.content.take(), next.content) {
        (Some(Content::Text(mut first)), Some(Content::Text(second)))
            if !first.is_empty() && !second.is_empty() =>
        {
            // In place: there may be a million of them.
            first.push_str("\n\n");
            first.push_str(&second);
            Some(Content::Text(first))
        }
        (Some(Content::Text(first)), second) if first.is_empty() => second.or(Some(Content::Text(first))),
        (first, second) => first.or(second),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn turns_of_one_role_become_one_and_calls_end_a_turn() {
        let text = Message::text;
        let calls = Message { tool_calls: vec![json!({ "id": "1" })], ..text("assistant", "c") };
        let told = vec![
            text("user", "a"),
            text("user", ""),
            text("user", "b"),
            text("assistant", ""),
            calls.clone(),
            text("tool", "1"),
            text("tool", "2"),
            text("user", "d"),
        ];
        let joined =
            vec![text("user", "a\n\nb"), calls, text("tool", "1"), text("tool", "2"), text("user", "d")];
        assert_eq!(join_turns(told), joined);
    }
}
