//! One step: the rows of the sequences in it through the model, what they draw, and what comes of it.

use super::draft_model::Guess;
use super::job::{Output, Pooling, TokenOutput};
use super::sequence::{Drawing, Sequence, Task, token_output};
use super::worker::Worker;
use crate::EngineError;
use crate::adapters::Lease;
use crate::grammar::Grammar;
use crate::stop::FinishReason;
use alti_models::Step;
use alti_tensor::{Backend, BackendError, PAGE_TOKENS, RowPlan, Span};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Rows that the draft model computes at once for an answer of which it has not seen all.
const MOST_CAUGHT_UP: usize = 64;

/// What a step computes, and which rows of it are wanted.
#[derive(Debug, Default)]
struct Rows {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    /// The adapters that spans name by index.
    adapters: Vec<Lease>,
    /// Rows whose logits are wanted.
    logits: Vec<usize>,
    /// Rows whose hidden states are wanted.
    states: Vec<usize>,
    /// For each sequence its share of the wanted rows: indices into `logits`, or into `states`.
    shares: Vec<Range<usize>>,
}

/// A draw, as a worker thread does it.
struct Draw<'a> {
    drawing: &'a mut Drawing,
    /// Rows of the step's logits.
    rows: Range<usize>,
    position: u64,
    draft: &'a [u32],
}

impl Rows {
    /// The index of an adapter among the step's.
    fn adapter(&mut self, lease: &Lease) -> usize {
        let known = self.adapters.iter().position(|known| known.is_same(lease));
        known.unwrap_or_else(|| {
            self.adapters.push(lease.clone());
            self.adapters.len() - 1
        })
    }
}

impl<B: Backend<Element = f32>> Worker<B> {
    /// Computes so many rows of each of the first running sequences, and delivers what comes of it.
    pub(super) fn step(&mut self, mut parts: Vec<usize>) {
        let shared = self.shared.clone();
        let turn = shared.settings.turns.take();
        let started = Instant::now();
        self.running[..parts.len()].iter_mut().for_each(|sequence| sequence.note_step(started));
        let guessed = self.guess(&mut parts);
        let parts = &parts[..];
        let rows = self.rows_of(parts);
        if let Err(error) = guessed.and_then(|()| self.compute(&rows)) {
            return self.fail(parts.len(), &error);
        }
        let seconds = started.elapsed().as_secs_f64();
        drop(turn);
        self.account(parts, &rows, seconds);
        let mut sequences: Vec<Sequence> = self.running.drain(..parts.len()).collect();
        for ((sequence, &part), share) in sequences.iter_mut().zip(parts).zip(&rows.shares) {
            let pending = part - sequence.draft().len();
            sequence.computed += pending;
            sequence.count_prompt();
            self.kv.enter_pages(sequence);
            self.gather_states(sequence, share);
            self.gather_prompt(sequence, share, pending);
        }
        let rest = std::mem::take(&mut self.running);
        for sequence in sequences {
            self.deliver(sequence);
        }
        self.running.extend(rest);
        self.hold_to_limit();
    }

    /// Lets the draft model compute the prompts of the step, and guess what follows where that was left to it. An answer
    /// of which it has not seen enough goes without a guess, and its part of the step is smaller.
    fn guess(&mut self, parts: &mut [usize]) -> Result<(), EngineError> {
        let Some(draft_model) = &mut self.draft_model else { return Ok(()) };
        let (mut prompts, mut guesses) = (Vec::new(), Vec::new());
        for (sequence, part) in self.running.iter_mut().zip(parts) {
            let Task::Generate(generation) = &mut sequence.task else { continue };
            let (tokens, computed, pages) = (&sequence.tokens, sequence.computed, &sequence.pages[..]);
            // Pages that came from others have its keys and values, too.
            let shared = sequence.place.map_or(0, |(_, full)| full * PAGE_TOKENS);
            generation.followed = generation.followed.max(shared).min(tokens.len() - 1);
            let pending = *part - generation.draft.len();
            let lag = tokens.len() - generation.followed;
            if pending > 1 {
                prompts.push((&tokens[computed..computed + pending], computed, pages));
                generation.followed = computed + pending;
            } else if generation.is_guess && lag > MOST_CAUGHT_UP {
                let from = generation.followed;
                prompts.push((&tokens[from..from + MOST_CAUGHT_UP], from, pages));
                generation.followed = from + MOST_CAUGHT_UP;
                *part = pending;
                generation.draft.clear();
                generation.is_guess = false;
            } else if generation.is_guess {
                let (computed, draft) = (generation.followed, &mut generation.draft[..]);
                guesses.push(Guess { tokens, computed, pages, draft });
            }
        }
        draft_model.follow(&mut self.backend, &prompts)?;
        draft_model.guess(&mut self.backend, &mut guesses)
    }

    /// The step's rows.
    fn rows_of(&self, parts: &[usize]) -> Rows {
        let mut rows = Rows::default();
        for (sequence, &part) in self.running.iter().zip(parts) {
            let first = rows.tokens.len();
            let draft = sequence.draft();
            let pending = part - draft.len();
            rows.tokens.extend(&sequence.tokens[sequence.computed..sequence.computed + pending]);
            rows.tokens.extend(draft);
            let pages = sequence.computed + part;
            let table = sequence.pages[..pages.div_ceil(PAGE_TOKENS)].to_vec();
            let adapter = sequence.request.job.adapter.as_ref().map(|lease| rows.adapter(lease));
            rows.spans.push(Span {
                first_position: sequence.computed,
                rows: part,
                pages: vec![table; self.kv.groups],
                adapter,
            });
            let is_last = sequence.computed + pending == sequence.tokens.len();
            let all = first..first + part;
            let (wanted, from) = match &sequence.task {
                Task::Generate(_) if sequence.wants_prompt() => (&mut rows.logits, all),
                Task::Generate(_) if is_last => (&mut rows.logits, first + pending - 1..first + part),
                Task::Generate(_) => (&mut rows.logits, first..first),
                Task::Embed(Pooling::Mean, _) => (&mut rows.states, all),
                Task::Embed(Pooling::Cls, sum) if sum.is_empty() => (&mut rows.states, first..first + 1),
                Task::Embed(Pooling::Last, _) if is_last => {
                    (&mut rows.states, first + part - 1..first + part)
                }
                Task::Embed(..) => (&mut rows.states, first..first),
            };
            let before = wanted.len();
            wanted.extend(from);
            rows.shares.push(before..wanted.len());
        }
        rows
    }

    /// Runs the model and draws: afterwards `self.states`, and `self.logits` where a prompt's are asked for, hold the
    /// wanted rows.
    fn compute(&mut self, rows: &Rows) -> Result<(), EngineError> {
        let plan = RowPlan::new(rows.spans.clone());
        let adapters = rows.adapters.iter().map(|lease| self.adapters.get(lease).cloned());
        let adapters: Vec<_> = adapters.map(|found| found.expect("an adapter in use is kept")).collect();
        let step =
            Step { tokens: &rows.tokens, rows: &plan, cache: Some(&self.kv.cache), adapters: &adapters };
        let (model, b) = (&self.model, &mut self.backend);
        let hidden = model.hidden(b, &step, |_, _| ());
        let logits = (!rows.logits.is_empty()).then(|| {
            let x = b.select_rows(&hidden, &rows.logits);
            model.unembed(b, &x, &plan.select(&rows.logits), &adapters)
        });
        let states = (!rows.states.is_empty()).then(|| {
            let x = b.select_rows(&hidden, &rows.states);
            b.rms_norm(&x, &model.norm, model.config.norm_epsilon)
        });
        drop(hidden);
        b.submit()?;
        self.states.clear();
        if let Some(states) = states {
            b.fetch(&states, &mut self.states)?;
        }
        let Some(logits) = logits else { return Ok(()) };
        self.logits.clear();
        if self.running[..rows.spans.len()].iter().any(Sequence::wants_prompt) {
            b.fetch(&logits, &mut self.logits)?;
        }
        self.draw(rows, &logits)
    }

    /// Draws the tokens of all sequences whose last row was computed, on all threads.
    fn draw(&mut self, rows: &Rows, logits: &B::Tensor) -> Result<(), EngineError> {
        let columns = self.model.config.vocabulary_size;
        let mut draws = Vec::new();
        for (sequence, (span, share)) in self.running.iter_mut().zip(rows.spans.iter().zip(&rows.shares)) {
            let Task::Generate(generation) = &mut sequence.task else { continue };
            let wanted = 1 + generation.draft.len();
            let is_last = span.first_position + span.rows + 1 == sequence.tokens.len() + wanted;
            if !is_last {
                continue;
            }
            let first = share.end - wanted;
            let position = sequence.tokens.len() as u64;
            for sibling in &mut generation.siblings {
                if let Task::Generate(sibling) = &mut sibling.task {
                    let drawing = &mut sibling.drawing;
                    draws.push(Mutex::new(Draw { drawing, rows: first..first + 1, position, draft: &[] }));
                }
            }
            let (drawing, draft) = (&mut generation.drawing, &generation.draft[..]);
            draws.push(Mutex::new(Draw { drawing, rows: first..share.end, position, draft }));
        }
        let workspaces = &self.workspaces;
        let task = |index: usize, logits: &[f32]| {
            let mut workspace = locked(workspaces).pop().unwrap_or_default();
            let draw: &mut Draw = &mut locked(&draws[index]);
            let logits = &logits[draw.rows.start * columns..draw.rows.end * columns];
            draw.drawing.draw(&mut workspace, logits, draw.position, draw.draft);
            locked(workspaces).push(workspace);
        };
        Ok(self.backend.for_each(logits, draws.len(), &task)?)
    }

    /// Ends everything that was in a step which failed.
    fn fail(&mut self, count: usize, error: &EngineError) {
        let what = error.to_string();
        for mut sequence in self.running.drain(..count).collect::<Vec<_>>() {
            self.kv.release(&mut sequence);
            self.totals.finished += 1;
            let error = EngineError::Backend(BackendError::Step { what: what.clone() });
            sequence.request.tell(Output::Failed(error));
        }
    }

    /// Counts what the step did.
    fn account(&mut self, parts: &[usize], rows: &Rows, seconds: f64) {
        self.totals.steps += 1;
        self.totals.step_seconds += seconds;
        let row_seconds = seconds * self.backend.threads() as f64 / rows.tokens.len() as f64;
        for (sequence, &part) in self.running.iter_mut().zip(parts) {
            sequence.usage.cpu_seconds += row_seconds * part as f64;
            if sequence.generated() == 0 {
                self.totals.prefill_tokens += part as u64;
            }
        }
    }

    /// Adds the hidden states that belong to a vector in the making.
    fn gather_states(&self, sequence: &mut Sequence, share: &Range<usize>) {
        let Task::Embed(_, sum) = &mut sequence.task else { return };
        let dim = self.model.config.embedding_length;
        for state in self.states[share.start * dim..share.end * dim].chunks_exact(dim) {
            sum.resize(dim, 0.0);
            sum.iter_mut().zip(state).for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }

    /// Notes the log-probabilities of the prompt's tokens behind the rows just computed.
    fn gather_prompt(&self, sequence: &mut Sequence, share: &Range<usize>, pending: usize) {
        if !sequence.wants_prompt() {
            return;
        }
        let columns = self.model.config.vocabulary_size;
        let logprobs = sequence.request.job.logprobs.or(Some(0));
        let behind = sequence.computed - pending + 1;
        let rows = self.logits[share.start * columns..share.end * columns].chunks_exact(columns);
        let Task::Generate(generation) = &mut sequence.task else { return };
        if generation.prompt.is_empty() {
            let token = sequence.tokens[0];
            generation.prompt.push(TokenOutput { token, logprob: None, top: Vec::new() });
        }
        for (row, &token) in rows.zip(&sequence.tokens[behind..]) {
            generation.prompt.push(token_output(row, token, logprobs));
        }
    }

    /// Tells what a sequence's step gave, and lets it run on or finish.
    fn deliver(&mut self, mut sequence: Sequence) {
        if sequence.pending() > 0 {
            return self.running.push(sequence);
        }
        match &mut sequence.task {
            Task::Embed(pooling, sum) => {
                let tokens = if *pooling == Pooling::Mean { sequence.tokens.len() } else { 1 };
                let values = sum.iter().map(|sum| (sum / tokens as f64) as f32).collect();
                let usage = sequence.usage_at_the_end();
                self.kv.release(&mut sequence);
                self.totals.finished += 1;
                sequence.request.tell(Output::Embedding { values, usage });
            }
            Task::Generate(generation) => {
                if !generation.prompt.is_empty() && sequence.choice == 0 {
                    let prompt = std::mem::take(&mut generation.prompt);
                    sequence.request.tell(Output::Prompt(prompt));
                }
                let siblings = std::mem::take(&mut generation.siblings);
                for sibling in siblings {
                    let sibling = self.fork(&sequence, sibling);
                    self.deliver_tokens(sibling);
                }
                self.deliver_tokens(sequence);
            }
        }
    }

    /// Gives another answer to the same prompt the prompt's keys and values; where there are no pages for the part that
    /// it will write on, it computes that again.
    fn fork(&mut self, first: &Sequence, mut sibling: Sequence) -> Sequence {
        sibling.first_step = first.first_step;
        sibling.usage.queue_seconds = first.usage.queue_seconds;
        let full = first.computed / PAGE_TOKENS;
        sibling.pages = first.pages[..full].to_vec();
        sibling.pages.iter().for_each(|&page| self.kv.pages.hold(page));
        sibling.computed = full * PAGE_TOKENS;
        sibling.place = first.place;
        if let (Task::Generate(own), Task::Generate(its)) = (&mut sibling.task, &first.task) {
            // Of the page that is copied, the draft model's part is not: it computes it again.
            own.followed = its.followed.min(full * PAGE_TOKENS);
        }
        // One that is going to wait needs no page of its own yet.
        let is_room = self.running.len() < self.settings().max_running.max(1);
        if is_room
            && first.computed > sibling.computed
            && let Some(page) = self.kv.free_page()
        {
            sibling.pages.push(page);
            if self.kv.copy_page(&mut self.backend, first.pages[full], page).is_ok() {
                sibling.computed = first.computed;
            }
        }
        sibling
    }

    /// Tells the tokens that were drawn.
    fn deliver_tokens(&mut self, mut sequence: Sequence) {
        let Task::Generate(generation) = &mut sequence.task else { return };
        if let Some(error) = generation.drawing.error.take() {
            self.kv.release(&mut sequence);
            self.totals.finished += 1;
            sequence.request.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
            return sequence.request.tell(Output::Failed(error));
        }
        let now = Instant::now();
        if sequence.first_token.is_none() {
            sequence.first_token = Some(now);
            let first_step = sequence.first_step.unwrap_or(now);
            sequence.usage.prefill_seconds = (now - first_step).as_secs_f64();
        }
        let drafted = generation.draft.len();
        let drawn = std::mem::take(&mut generation.drawing.drawn);
        let accepted = drawn.len() - 1;
        generation.drafting.tick(drawn[0].token);
        generation.drafting.note(drafted, accepted);
        if generation.is_guess {
            // It has computed all of its guesses but the last.
            generation.followed = sequence.computed + accepted.min(drafted - 1);
        }
        sequence.usage.drafted_tokens += drafted;
        sequence.usage.accepted_tokens += accepted;
        self.totals.drafted_tokens += drafted as u64;
        self.totals.accepted_tokens += accepted as u64;
        generation.draft.clear();
        let mut reason = None;
        let last = drawn.len() - 1;
        for (index, token) in drawn.into_iter().enumerate() {
            self.totals.generated_tokens += 1;
            reason = self.deliver_token(&mut sequence, token, index == last);
            if reason.is_some() {
                break;
            }
        }
        // Of what was drawn, all but the last token was in the step.
        sequence.computed = (sequence.computed + accepted).min(sequence.tokens.len());
        match reason {
            Some(reason) => {
                self.kv.retire(&mut sequence);
                Self::finish(&self.shared, &mut self.totals, sequence, reason);
            }
            None if sequence.pending() <= 1 => {
                self.kv.enter_pages(&mut sequence);
                self.running.push(sequence);
            }
            None => {
                self.kv.release(&mut sequence);
                self.enqueue(sequence);
            }
        }
    }

    /// Tells one token; returns why the answer ends with it, if it does. The grammar stands behind the last that was drawn.
    fn deliver_token(
        &self,
        sequence: &mut Sequence,
        token: TokenOutput,
        is_last: bool,
    ) -> Option<FinishReason> {
        let id = token.token;
        sequence.usage.generated_tokens += 1;
        let Task::Generate(generation) = &mut sequence.task else { return None };
        if generation.drawing.ends.contains(&id) {
            return Some(FinishReason::StopToken(id));
        }
        sequence.tokens.push(id);
        let (told, stop) = generation.teller.push(token);
        let is_over = is_last && generation.drawing.grammar.as_ref().is_some_and(Grammar::is_finished);
        let choice = sequence.choice;
        told.into_iter()
            .for_each(|(token, text)| sequence.request.tell(Output::Token { choice, token, text }));
        if let Some(stop) = stop {
            return Some(FinishReason::StopString(stop));
        }
        if is_over {
            return Some(FinishReason::GrammarEnd);
        }
        let most = sequence.request.job.sampling.max_tokens;
        if sequence.generated() as i64 == most {
            return Some(FinishReason::Length);
        }
        (sequence.tokens.len() > self.shared.settings.context).then_some(FinishReason::ContextFull)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
