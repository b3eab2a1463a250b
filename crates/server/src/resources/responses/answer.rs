//! The answer of a response, event by event: what the model says, and the calls that are made here in between, which it goes
//! on with.

use super::keep::numbered;
use super::live::Live;
use super::plan::Plan;
use super::write::{Prepared, Start, ask_model, prepare};
use super::writer::Writer;
use crate::error::ApiResult;
use crate::generate::{ChatRequest, Ended, Event, Generation, Tally, ToolCall, ToolChoice};
use crate::mcp::{CallResult, Round, ToolRounds};
use crate::openai::shared::finite;
use crate::resources::{ask, items};
use crate::route::Call;
use alti_engine::serving::TokenOutput;
use alti_text::Tokenizer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often events of a response in the background are stored while it is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Most answers of the model whose calls to MCP servers are made; behind them it has to go on without.
const MAX_ROUNDS: usize = 8;

/// The response that is written.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) call: &'a Call,
    pub(super) plan: &'a Plan,
    pub(super) tally: &'a Tally,
    pub(super) live: &'a Live,
}

/// Tells the answer; says why it ended.
///
/// # Errors
/// What kept it from its end.
pub(super) async fn answer(job: Job<'_>, start: Start, writer: &mut Writer) -> ApiResult<Ended> {
    let Job { call, plan, tally, .. } = job;
    writer.in_progress();
    let (prepared, mut begun, mut model) = match start {
        Start::Asked(asked) => {
            let (prepared, generation) = *asked;
            (prepared, Some(generation), None)
        }
        Start::Model(model) => (prepare(call, tally, plan).await?, None, Some(*model)),
    };
    let Prepared { queries, hits, chat } = prepared;
    if !queries.is_empty() {
        writer.searched(&queries, hits);
    }
    let mcp = call.state.mcp();
    for server in mcp.names() {
        let tools: Vec<_> = plan.mcp.iter().filter(|tool| tool.server == server).collect();
        if !tools.is_empty() {
            writer.listed(server, &tools);
        }
    }
    let rounds = ToolRounds::new(mcp.clone(), plan.mcp.clone(), MAX_ROUNDS).most_calls(plan.most_calls);
    let mut answer = Answer { job, writer, rounds, chat, events: 0, saved_at: Instant::now() };
    answer.make_approved().await;
    loop {
        let mut generation = match begun.take() {
            Some(generation) => generation,
            None => ask_model(call, tally, plan, model.take(), &mut answer.chat).await?,
        };
        let turn = answer.tell(&mut generation).await?;
        if !answer.goes_on(&turn).await {
            return Ok(turn.ended);
        }
    }
}

/// An answer that is being told.
struct Answer<'a> {
    job: Job<'a>,
    writer: &'a mut Writer,
    rounds: ToolRounds,
    /// What is asked next.
    chat: ChatRequest,
    /// How many events of a response in the background are stored.
    events: usize,
    saved_at: Instant,
}

/// What the model says at once.
struct Turn {
    text: String,
    calls: Vec<ToolCall>,
    ended: Ended,
}

impl Answer<'_> {
    /// Makes the calls that were approved.
    async fn make_approved(&mut self) {
        let Job { plan: Plan { approved: calls, .. }, .. } = self.job;
        if calls.is_empty() {
            return;
        }
        for made in self.rounds.approved(calls).await {
            self.tell_result(&made, Some(&made.call.id));
            items::push_call(&mut self.chat.messages, &made.call, &made.result.text);
        }
        self.have_been_called();
    }

    /// Makes the calls of a turn. Whether the model is to go on with what came of them.
    async fn goes_on(&mut self, turn: &Turn) -> bool {
        if turn.calls.iter().all(|call| self.rounds.tool(&call.name).is_none()) {
            return false;
        }
        // An answer that was cut may have been cut in the middle of a call.
        let next = match turn.ended {
            Ended::ToolCalls => self.rounds.next(&turn.calls).await,
            _ => Round::Exhausted,
        };
        match next {
            Round::Results(results) => {
                results.iter().for_each(|made| self.tell_result(made, None));
                self.chat.messages.push(ToolRounds::turn(&turn.text, &turn.calls));
                self.chat.messages.extend(results.iter().map(CallResult::to_message));
                self.have_been_called();
                return true;
            }
            Round::Approval { made, asked } => {
                made.iter().for_each(|made| self.tell_result(made, None));
                for call in &asked {
                    if let Some(tool) = self.rounds.tool(&call.name) {
                        self.writer.asked(tool, &call.arguments);
                    }
                }
            }
            Round::Client | Round::Exhausted => {
                for call in &turn.calls {
                    if let Some(tool) = self.rounds.tool(&call.name) {
                        let outcome = Err("not made: the answer ends here");
                        self.writer.called(tool, &call.arguments, outcome, None);
                    }
                }
            }
        }
        // The client goes on from here.
        false
    }

    /// What had to be called has been, and what may be called may be less from here on: the client's own functions alone.
    fn have_been_called(&mut self) {
        self.chat.tool_choice = ToolChoice::Auto;
        if !self.rounds.is_open() {
            let name = |tool: &Value| tool["function"]["name"].as_str().map(str::to_owned);
            self.chat.tools.retain(|tool| name(tool).is_none_or(|name| self.rounds.tool(&name).is_none()));
        }
    }

    fn tell_result(&mut self, made: &CallResult, approval: Option<&str>) {
        if let Some(tool) = self.rounds.tool(&made.call.name) {
            let text = made.result.text.as_str();
            let outcome = if made.result.is_error { Err(text) } else { Ok(text) };
            self.writer.called(tool, &made.call.arguments, outcome, approval);
        }
    }

    /// Tells a turn of the model's, but for calls that are made here.
    async fn tell(&mut self, generation: &mut Generation) -> ApiResult<Turn> {
        let tells_logprobs = self.job.plan.options.logprobs.is_some();
        let mut turn = Turn { text: String::new(), calls: Vec::new(), ended: Ended::Cancelled };
        let mut is_ours = false;
        while let Some(event) = generation.next().await? {
            match event {
                Event::Text { text, tokens, .. } => {
                    let tokens = if tells_logprobs {
                        logprobs(&generation.model.tokenizer, &tokens)
                    } else {
                        Vec::new()
                    };
                    turn.text.push_str(&text);
                    self.writer.text(&text, tokens);
                }
                Event::CallBegin { id, name, .. } => {
                    is_ours = self.rounds.tool(&name).is_some();
                    if !is_ours {
                        self.writer.call(&id, &name);
                    }
                    turn.calls.push(ToolCall { id, name, arguments: String::new() });
                }
                Event::CallArguments { arguments, .. } => {
                    if !is_ours {
                        self.writer.arguments(&arguments);
                    }
                    if let Some(last) = turn.calls.last_mut() {
                        last.arguments.push_str(&arguments);
                    }
                }
                Event::Finished { ended, .. } => turn.ended = ended,
                Event::Prompt(_) => {}
            }
            self.save().await?;
        }
        Ok(turn)
    }

    /// Stores the events of a response in the background, now and then.
    async fn save(&mut self) -> ApiResult<()> {
        let Job { call, plan, live, .. } = self.job;
        if !plan.background || self.saved_at.elapsed() <= SAVE_EVERY {
            return Ok(());
        }
        let (id, events) = (plan.id.clone(), numbered(live, self.events));
        self.events += events.len();
        self.saved_at = Instant::now();
        ask(&call.state, move |store| store.responses().add_events(&id, &events)).await
    }
}

/// Tokens with their log-probabilities.
fn logprobs(tokenizer: &Tokenizer, tokens: &[TokenOutput]) -> Vec<Value> {
    let entry = |token: u32, logprob: f32| {
        json!({
            "token": tokenizer.token_text(token),
            "bytes": tokenizer.token_bytes(token),
            "logprob": finite(logprob),
        })
    };
    let told = tokens.iter().filter_map(|output| {
        let mut told = entry(output.token, output.logprob?);
        told["top_logprobs"] = output.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
        Some(told)
    });
    told.collect()
}
