//! What all APIs that write text have in common: a request, the job it becomes, and the events that come of it. An
//! answer that is streamed and one that is not are the same events.

mod collect;
mod embed;
mod fill_in;
mod grammar;
mod meter;
mod options;
mod prompt;
mod run;
mod stream;
mod tools;

pub(crate) use collect::add_usage;
pub use collect::{Answer, Choice, collect};
pub use embed::{embed, likelihoods, normalized};
pub use fill_in::{fill_in_prompt, fill_in_tokens};
pub use grammar::{Format, response_format};
pub use meter::Meter;
pub use options::{Options, is_setting, sampling};
pub use prompt::{ChatRequest, check_messages};
pub(crate) use run::encode_plain;
pub use run::{Ended, Event, Generation, encode_text, render_chat, start, start_chat};
pub use stream::{Renderer, stream};
pub(crate) use tools::arguments_object;
pub use tools::{ToolCall, ToolChoice};
