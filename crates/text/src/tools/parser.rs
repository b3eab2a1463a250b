//! An answer, read as it streams.

use super::dialect::{Form, ToolDialect};
use super::event::{ToolEvent, ToolOutput};
use super::forms::{Found, Names, Reader, Verdict, is_space};

/// Reads one answer. Cutting its text differently makes no difference to what its events add up to.
///
/// White space around calls belongs to them; all other text that is no complete call comes out as content.
pub struct ToolCallParser {
    form: &'static Form,
    names: Names,
    id_prefix: String,
    state: State,
    /// White space that is content if content follows.
    space: String,
    /// Whether a call was the last thing read, but for white space.
    after_call: bool,
    next_index: usize,
    events: Vec<ToolEvent>,
}

enum State {
    /// Nothing but white space so far: a call may begin unannounced.
    Start,
    /// Ordinary text, with what may be the beginning of an opening text.
    Text(String),
    /// Perhaps calls. `raw` is how what is not complete is written, `open` the call that has begun.
    Calls { reader: Reader, raw: String, open: Option<usize> },
    /// Behind a region: what may be its closing text.
    Closing(String),
}

impl ToolCallParser {
    /// A parser of an answer in `dialect` by a model that was given the tools `names`; a call of another function is
    /// ordinary text. Without any name, every call counts. Identifiers of calls begin with `id_prefix`.
    pub fn new(dialect: ToolDialect, names: Vec<String>, id_prefix: impl Into<String>) -> Self {
        Self {
            form: dialect.form(),
            names: Names(names),
            id_prefix: id_prefix.into(),
            state: State::Start,
            space: String::new(),
            after_call: false,
            next_index: 0,
            events: Vec::new(),
        }
    }

    /// Reads a whole answer.
    pub fn parse(mut self, text: &str) -> ToolOutput {
        let mut output = ToolOutput::collect(self.push(text));
        self.finish().iter().for_each(|event| output.push(event));
        output
    }

    /// Reads more of the answer.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        for character in text.chars() {
            self.character(character);
        }
        std::mem::take(&mut self.events)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        match std::mem::replace(&mut self.state, State::Text(String::new())) {
            State::Start => {}
            State::Text(tail) => self.literal(&tail),
            // Half a closing text says nothing.
            State::Closing(_) => {}
            State::Calls { mut reader, mut raw, mut open } => {
                let mut found = Vec::new();
                let complete = reader.finish(&self.names, &mut found);
                self.take(found, &mut raw, &mut open);
                if !complete {
                    self.give_up(raw, open);
                }
            }
        }
        if !self.after_call {
            let space = std::mem::take(&mut self.space);
            self.content(&space);
        }
        std::mem::take(&mut self.events)
    }

    fn character(&mut self, character: char) {
        match std::mem::replace(&mut self.state, State::Start) {
            State::Start if is_space(character) => self.space.push(character),
            State::Start => {
                let leads = self.form.leads;
                match Reader::leading(self.form.notation, character).filter(|_| leads) {
                    Some(reader) => {
                        let raw = std::mem::take(&mut self.space);
                        self.read(reader, raw, None, character);
                    }
                    None => self.text(String::new(), character),
                }
            }
            State::Text(tail) => self.text(tail, character),
            State::Calls { reader, raw, open } => self.read(reader, raw, open, character),
            State::Closing(tail) => self.closing(tail, character),
        }
    }

    /// A character of ordinary text, behind `tail`, with which an opening text may begin.
    fn text(&mut self, mut tail: String, character: char) {
        tail.push(character);
        let openings = self.form.open;
        while let Some(first) = tail.chars().next() {
            if openings.contains(&tail.as_str()) {
                let raw = std::mem::take(&mut self.space) + &tail;
                self.state = State::Calls { reader: Reader::new(self.form.notation), raw, open: None };
                return;
            }
            if openings.iter().any(|opening| opening.starts_with(&tail)) {
                break;
            }
            tail.remove(0);
            self.literal(first.encode_utf8(&mut [0; 4]));
        }
        self.state = State::Text(tail);
    }

    /// A character of what may be calls.
    fn read(&mut self, mut reader: Reader, mut raw: String, mut open: Option<usize>, character: char) {
        let mut found = Vec::new();
        let verdict = reader.push(character, &self.names, &mut found);
        if matches!(verdict, Verdict::More | Verdict::Last) {
            raw.push(character);
        }
        self.take(found, &mut raw, &mut open);
        match verdict {
            Verdict::More => self.state = State::Calls { reader, raw, open },
            Verdict::Last => self.state = State::Closing(String::new()),
            Verdict::Behind => self.closing(raw, character),
            Verdict::Bad => {
                self.give_up(raw, open);
                self.text(String::new(), character);
            }
        }
    }

    /// A character behind a region.
    fn closing(&mut self, mut tail: String, character: char) {
        if tail.trim_start().is_empty() && character.is_whitespace() {
            self.space.push_str(&tail);
            self.space.push(character);
            self.state = State::Closing(String::new());
            return;
        }
        tail.push(character);
        let seen = tail.trim_start();
        match self.form.close {
            Some(close) if seen == close => {
                self.space.clear();
                self.state = State::Text(String::new());
            }
            Some(close) if close.starts_with(seen) => self.state = State::Closing(tail),
            _ => {
                // It may open the next region.
                self.state = State::Text(String::new());
                for character in tail.chars() {
                    self.character(character);
                }
            }
        }
    }

    /// Turns what a reader has found into events. What is complete is no longer needed as it was written.
    fn take(&mut self, found: Vec<Found>, raw: &mut String, open: &mut Option<usize>) {
        for found in found {
            match found {
                Found::Start(name) => {
                    let index = self.next_index;
                    self.next_index += 1;
                    *open = Some(index);
                    let id = format!("{}{index}", self.id_prefix);
                    self.events.push(ToolEvent::Start { index, id, name });
                }
                Found::Arguments(text) => {
                    if let Some(index) = *open {
                        self.arguments(index, text);
                    }
                }
                Found::End => {
                    if let Some(index) = open.take() {
                        self.events.push(ToolEvent::End { index });
                    }
                    raw.clear();
                    self.after_call = true;
                }
            }
        }
    }

    fn arguments(&mut self, index: usize, text: String) {
        match self.events.last_mut() {
            Some(ToolEvent::Arguments { text: last, .. }) => last.push_str(&text),
            _ => self.events.push(ToolEvent::Arguments { index, text }),
        }
    }

    /// What looked like calls is none.
    fn give_up(&mut self, raw: String, open: Option<usize>) {
        match open {
            Some(index) => {
                let text = std::mem::take(&mut self.space) + &raw;
                self.after_call = false;
                self.events.push(ToolEvent::Abandoned { index, text });
            }
            None => self.literal(&raw),
        }
    }

    /// Ordinary text, which is not looked at again.
    fn literal(&mut self, text: &str) {
        let body = text.trim_end();
        if !body.is_empty() {
            let space = std::mem::take(&mut self.space);
            self.content(&(space + body));
            self.after_call = false;
        }
        self.space.push_str(&text[body.len()..]);
    }

    fn content(&mut self, text: &str) {
        match self.events.last_mut() {
            _ if text.is_empty() => {}
            Some(ToolEvent::Content(last)) => last.push_str(text),
            _ => self.events.push(ToolEvent::Content(text.to_owned())),
        }
    }
}
