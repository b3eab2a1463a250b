//! What comes of reading an answer.

/// Something read from an answer, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Ordinary text.
    Content(String),
    /// A call begins. Its arguments follow.
    Start {
        /// Which of the answer's calls, from 0.
        index: usize,
        /// Its identifier.
        id: String,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments: put together, JSON text.
    Arguments {
        /// Which call.
        index: usize,
        /// What to append.
        text: String,
    },
    /// A call is complete.
    End {
        /// Which call.
        index: usize,
    },
    /// A call that began is none: it is malformed, or the answer ends inside of it. Its number is not used again.
    Abandoned {
        /// Which call.
        index: usize,
        /// How it was written, now ordinary text.
        text: String,
    },
}

/// A call as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Its identifier.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// JSON text: an object.
    pub arguments: String,
}

/// An answer as a whole, put together from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolOutput {
    /// The ordinary text.
    pub content: String,
    /// The complete calls, in order.
    pub calls: Vec<ToolCall>,
    open: Option<ToolCall>,
}

impl ToolOutput {
    /// Adds what was read next.
    pub fn push(&mut self, event: &ToolEvent) {
        match event {
            ToolEvent::Content(text) => self.content.push_str(text),
            ToolEvent::Start { id, name, .. } => {
                self.open = Some(ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            ToolEvent::Arguments { text, .. } => {
                if let Some(call) = &mut self.open {
                    call.arguments.push_str(text);
                }
            }
            ToolEvent::End { .. } => self.calls.extend(self.open.take()),
            ToolEvent::Abandoned { text, .. } => {
                self.open = None;
                self.content.push_str(text);
            }
        }
    }

    /// All events of an answer, put together.
    pub fn collect(events: impl IntoIterator<Item = ToolEvent>) -> Self {
        let mut output = Self::default();
        for event in events {
            output.push(&event);
        }
        output
    }
}
