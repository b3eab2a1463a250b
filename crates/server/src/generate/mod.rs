//! What all APIs that write text have in common: a request, the job it becomes, and the events that come of it. An
//! answer that is streamed and one that is not are the same events.

mod collect;
mod defaults;
mod embed;
mod fill_in;
mod grammar;
mod meter;
mod options;
mod parts;
mod prompt;
mod run;
mod stream;
mod time_limit;
mod tools;
mod turns;

pub(crate) use collect::add_usage;
pub use collect::{Answer, Choice, collect};
pub(crate) use defaults::defaults;
pub use defaults::{DEFAULTS, FamilyDefaults};
pub(crate) use embed::embed_part;
pub use embed::{embed, likelihood, likelihoods, normalized};
pub use fill_in::{fill_in_prompt, fill_in_tokens};
pub use grammar::{Format, response_format};
pub use meter::{Meter, Most, Tally};
pub use options::{Options, is_setting, sampling, shortest, told};
pub use parts::Parts;
pub use prompt::{ChatRequest, check_messages};
pub(crate) use prompt::{chat_prompt, template_source};
pub use run::{Ended, Event, Generation, encode_text, render_chat, start, start_chat};
pub(crate) use run::{check_chat, encode_plain, start_part, with_text};
pub use stream::{Renderer, stream};
pub use tools::{ToolCall, ToolChoice};
pub(crate) use tools::{ToolPlan, arguments_object};
