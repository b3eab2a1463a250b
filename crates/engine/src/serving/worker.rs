//! The thread that owns the model: takes requests in, chooses what each step computes, and ends what is ended.
//!
//! [`step`](super::step) computes; this file decides. Order is by rank everywhere: interactive before batch, then first
//! come. When pages run out, the one of lowest rank gives its pages up and is computed again later: nothing fails.

use super::control::{Command, Submission};
use super::draft::{Drafting, Spare};
use super::draft_model::DraftModel;
use super::engine::{EngineSettings, Shared};
use super::job::{CacheDomain, Output, Status, Usage};
use super::kv::KvMemory;
use super::sequence::{Generation, Request, Sequence, Task};
use super::teller::Teller;
use crate::EngineError;
use crate::adapters::{AdapterWeights, Lease};
use crate::sampling::Workspace;
use crate::stop::FinishReason;
use crate::writer::Writer;
use alti_models::{Adapter, Llama, memory};
use alti_tensor::{Backend, PAGE_TOKENS};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The step budget of a prompt whose every token's log-probability is wanted: each costs a row of logits.
const LOGPROB_ROWS: usize = 64;

/// How often a worker with nothing else to do looks whether dropped adapters are still held.
const ADAPTER_POLL: Duration = Duration::from_millis(500);

/// The owner of a model.
pub(super) struct Worker<B: Backend> {
    pub(super) backend: B,
    pub(super) model: Arc<Llama<B::Weight>>,
    pub(super) kv: KvMemory<B>,
    /// What guesses, besides the answers themselves.
    pub(super) draft_model: Option<DraftModel<B>>,
    pub(super) adapters: AdapterWeights<B::Weight>,
    pub(super) shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// By rank.
    waiting: Vec<Sequence>,
    /// Those that need their next token first, each kind by rank.
    pub(super) running: Vec<Sequence>,
    /// Totals; the rest is filled in when it is published.
    pub(super) totals: Status,
    pub(super) workspaces: Mutex<Vec<Workspace>>,
    pub(super) logits: Vec<f32>,
    pub(super) states: Vec<f32>,
    /// When all that is left is cancelled, and who waits for it.
    closing: Option<(Instant, Vec<Sender<()>>)>,
}

impl<B: Backend<Element = f32>> Worker<B> {
    /// A worker with nothing to do.
    pub(super) fn new(
        backend: B,
        model: Arc<Llama<B::Weight>>,
        draft: Option<Arc<Llama<B::Weight>>>,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
    ) -> Result<Self, EngineError> {
        let settings = &shared.settings;
        let (tokens, dtype, vocabulary) =
            (settings.kv_tokens, settings.kv_dtype, model.config.vocabulary_size);
        let draft = draft.map(|draft| DraftModel::new(&backend, draft, tokens, dtype, vocabulary));
        let layout = memory::cache_layout(&model.config, settings.kv_tokens, settings.kv_dtype);
        let kv = KvMemory::new(&backend, &layout, settings.prefix_cache)?;
        let mut worker = Worker {
            backend,
            model,
            kv,
            draft_model: draft.transpose()?,
            adapters: AdapterWeights::default(),
            commands,
            waiting: Vec::new(),
            running: Vec::new(),
            totals: Status { page_tokens: PAGE_TOKENS, ..Status::default() },
            workspaces: Mutex::default(),
            logits: Vec::new(),
            states: Vec::new(),
            closing: None,
            shared,
        };
        worker.grant_pages(usize::MAX);
        Ok(worker)
    }

    /// Has the system grant memory for at most so many of the pages that are used next. Whether there were any.
    fn grant_pages(&mut self, most: usize) -> bool {
        let pages = self.kv.grant(most);
        if pages.is_empty() {
            return false;
        }
        self.backend.grant_pages(&self.kv.cache, pages.clone());
        if let Some(draft_model) = &self.draft_model {
            draft_model.grant_pages(&mut self.backend, pages);
        }
        true
    }

    pub(super) fn settings(&self) -> &EngineSettings {
        &self.shared.settings
    }

    /// Works until nobody can ask for more.
    pub(super) fn run(mut self) {
        while self.receive() {
            self.end_what_is_ended();
            self.admit();
            let parts = self.plan();
            if !parts.is_empty() {
                self.step(parts);
            }
            self.release_adapters();
            self.publish();
        }
        self.publish();
        for waiter in self.closing.map(|(_, waiters)| waiters).into_iter().flatten() {
            // Who has stopped waiting does not need to know.
            let _ = waiter.send(());
        }
    }

    /// Takes in what was asked. While there is nothing to do memory is granted, and then the thread sleeps. Whether to go
    /// on.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty();
            if idle && self.closing.is_some() {
                return false;
            }
            let command = match self.commands.try_recv() {
                // Nobody has to wait for it.
                Err(TryRecvError::Empty) if idle && self.grant_pages(1) => continue,
                Err(TryRecvError::Empty) if idle => self.wait_for_command(),
                received => received,
            };
            match command {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !idle,
            }
        }
    }

    /// Sleeps until something is asked. Meanwhile adapters that were dropped go: who holds one last does not say so.
    fn wait_for_command(&mut self) -> Result<Command, TryRecvError> {
        while self.adapters.count() > self.shared.adapters.all().len() {
            match self.commands.recv_timeout(ADAPTER_POLL) {
                Err(RecvTimeoutError::Timeout) => {
                    self.release_adapters();
                    self.publish();
                }
                Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
                Ok(command) => return Ok(command),
            }
        }
        self.commands.recv().map_err(|_| TryRecvError::Disconnected)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.take(*submission),
            Command::SavePrefixes(path, model, reply) => {
                let _ = reply.send(self.kv.save(&self.backend, &path, &model));
            }
            Command::LoadPrefixes(path, model, reply) => {
                let _ = reply.send(self.kv.load(&mut self.backend, &path, &model));
                self.publish();
            }
            Command::ReadSlot(name, model, reply) => {
                let _ = reply.send(self.kv.read_slot(&self.backend, &name, &model));
            }
            Command::WriteSlot(name, text, path, model, reply) => {
                let written = self.kv.write_slot(&mut self.backend, name, &text, &path, &model);
                self.publish();
                let _ = reply.send(written);
            }
            Command::EraseSlot(name, reply) => {
                let erased = self.kv.erase_slot(&name);
                self.publish();
                let _ = reply.send(erased);
            }
            Command::LoadAdapter(lease, adapter, reply) => {
                let _ = reply.send(self.load_adapter(lease, &adapter));
            }
            Command::ReleaseAdapters => {
                self.release_adapters();
                self.publish();
            }
            Command::Close(deadline, reply) => {
                let (at, waiters) = self.closing.get_or_insert((deadline, Vec::new()));
                *at = deadline.min(*at);
                waiters.push(reply);
            }
        }
    }

    fn load_adapter(&mut self, lease: Lease, adapter: &alti_formats::Adapter) -> Result<Lease, EngineError> {
        let adapter = Arc::new(Adapter::load(&self.backend, adapter)?);
        self.adapters.keep(lease.clone(), adapter);
        let named = self.shared.adapters.insert(lease.clone()).map(|()| lease);
        self.release_adapters();
        named
    }

    /// Lets go of adapters that were dropped and are not used any more, and of what was computed with them.
    fn release_adapters(&mut self) {
        let gone = self.adapters.release_unused();
        if !gone.is_empty() {
            let concerned =
                |domain: &CacheDomain| domain.adapter.as_ref().is_some_and(|own| gone.contains(own));
            self.kv.tree.forget(&mut self.kv.pages, concerned);
            self.kv.forget_slots(concerned);
        }
    }

    /// Makes sequences of a request.
    fn take(&mut self, submission: Submission) {
        let Submission { id, job, mut sink, cancelled, submitted, drawings, pooling } = submission;
        if let Some(unknown) = job.adapter.as_ref().filter(|lease| self.adapters.get(lease).is_none()) {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            sink(Output::Failed(self.shared.adapters.unknown(unknown.name())));
            return;
        }
        let tokenizer = &self.shared.tokenizer;
        let request = Rc::new(Request {
            id,
            submitted,
            cancelled,
            sink: RefCell::new(sink),
            started: Cell::new(false),
            job,
        });
        let sequence = |choice, task| Sequence {
            tokens: request.job.prompt.clone(),
            request: request.clone(),
            choice,
            computed: 0,
            pages: Vec::new(),
            place: None,
            task,
            usage: Usage::default(),
            first_step: None,
            first_token: None,
        };
        let generation = |drawing| Generation {
            drawing,
            teller: Teller::new(Writer::new(tokenizer, &request.job.sampling, request.job.spell_specials)),
            drafting: Drafting::new(self.shared.settings.draft_tokens),
            draft: Vec::new(),
            is_guess: false,
            followed: 0,
            siblings: Vec::new(),
            prompt: Vec::new(),
        };
        if let Some(pooling) = pooling {
            return self.enqueue(sequence(0, Task::Embed(pooling, Vec::new())));
        }
        let choices = (0..).zip(drawings);
        let mut choices =
            choices.map(|(choice, drawing)| sequence(choice, Task::Generate(Box::new(generation(drawing)))));
        let Some(mut first) = choices.next() else { return };
        if let Task::Generate(generation) = &mut first.task {
            generation.siblings = choices.collect();
        }
        self.enqueue(first);
    }

    pub(super) fn enqueue(&mut self, sequence: Sequence) {
        let at = self.waiting.partition_point(|other| other.rank() < sequence.rank());
        self.waiting.insert(at, sequence);
    }

    /// Ends what was cancelled, or took too long.
    fn end_what_is_ended(&mut self) {
        let now = Instant::now();
        let all = self.closing.as_ref().is_some_and(|(deadline, _)| now >= *deadline);
        let ended = |sequence: &Sequence| match all {
            true => Some(FinishReason::Cancelled),
            false => sequence.request.ended(now),
        };
        for queue in [&mut self.waiting, &mut self.running] {
            let mut index = 0;
            while index < queue.len() {
                let Some(reason) = ended(&queue[index]) else {
                    index += 1;
                    continue;
                };
                let mut sequence = queue.remove(index);
                self.kv.retire(&mut sequence);
                Self::finish(&self.shared, &mut self.totals, sequence, reason);
            }
        }
    }

    /// Moves who waits into the works, as far as there is room.
    fn admit(&mut self) {
        while !self.waiting.is_empty() {
            let mut sequence = self.waiting.remove(0);
            let answers = self.running.iter().map(Sequence::answers).sum::<usize>() + sequence.answers();
            // A request for more answers than may ever run together begins alone; then some of them wait.
            let is_room = answers <= self.settings().max_running.max(1) || self.running.is_empty();
            if is_room {
                // Whole pages cost nothing to give back; what is copied is copied when the sequence is in the works.
                self.kv.adopt_pages(&mut sequence);
            }
            let promised: usize = self.running.iter().map(missing_pages).sum();
            let needed = promised + missing_pages(&sequence);
            if is_room && (needed <= self.kv.available() || self.running.is_empty()) {
                self.start(sequence);
                continue;
            }
            // It keeps no pages while it waits: they may be what others wait for.
            self.withdraw(sequence);
            let next = self.waiting.first().expect("it was just put back");
            let worst = self.running.iter().enumerate().max_by_key(|(_, other)| other.rank());
            match worst {
                Some((index, other)) if other.request.job.priority < next.request.job.priority => {
                    self.preempt(index);
                }
                _ => return,
            }
        }
    }

    fn start(&mut self, sequence: Sequence) {
        if !sequence.request.started.replace(true) {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        }
        self.running.push(sequence);
    }

    /// Takes a sequence's pages back and lets it wait.
    fn withdraw(&mut self, mut sequence: Sequence) {
        self.kv.release(&mut sequence);
        // What was told of the prompt, and summed up of it, comes again.
        match &mut sequence.task {
            Task::Generate(generation) => generation.prompt.clear(),
            Task::Embed(_, sum) => sum.clear(),
        }
        self.enqueue(sequence);
    }

    /// Lets a running sequence wait: another needs its pages.
    fn preempt(&mut self, index: usize) {
        let sequence = self.running.remove(index);
        self.totals.preemptions += 1;
        self.withdraw(sequence);
    }

    /// Lets answers wait that are more than may run together: those of a request that wanted so many.
    pub(super) fn hold_to_limit(&mut self) {
        while self.running.len() > self.settings().max_running.max(1) {
            let last = self.running.iter().enumerate().max_by_key(|(_, sequence)| sequence.rank());
            let Some((index, _)) = last else { return };
            let sequence = self.running.remove(index);
            self.withdraw(sequence);
        }
    }

    /// Chooses the rows of the next step: `parts[i]` for `running[i]`, its draft included.
    fn plan(&mut self) -> Vec<usize> {
        self.running.sort_by_key(|sequence| (sequence.pending() > 1, sequence.rank()));
        let decoding = self.running.iter().filter(|sequence| sequence.pending() == 1).count();
        let mut budget = self.settings().step_tokens.max(1);
        let mut parts = Vec::new();
        while parts.len() < self.running.len() && budget > 0 {
            let index = parts.len();
            let rows = self.rows(index, budget, decoding);
            let end = self.running[index].computed + rows;
            if self.make_room(index, end, &mut parts) {
                budget -= rows;
                parts.push(rows);
            }
        }
        parts
    }

    /// How many rows of a step a running sequence takes.
    fn rows(&mut self, index: usize, budget: usize, decoding: usize) -> usize {
        let settings = &self.shared.settings;
        let sequence = &mut self.running[index];
        if sequence.pending() > 1 {
            // Others may have computed meanwhile what comes next.
            self.kv.adopt(&mut self.backend, sequence);
        }
        let most = if sequence.wants_prompt() { budget.min(LOGPROB_ROWS) } else { budget };
        let pending = sequence.pending().min(most);
        let is_last = pending == sequence.pending();
        let room = (budget - pending).min(settings.context - sequence.computed - pending);
        let room = if is_last { room.min(settings.draft_tokens) } else { 0 };
        sequence.make_draft(room, Spare::beside(decoding), self.draft_model.is_some());
        pending + sequence.draft().len()
    }

    /// Gives a running sequence the pages for its first `tokens` tokens; whether that was possible. If not, it waits.
    fn make_room(&mut self, index: usize, tokens: usize, parts: &mut Vec<usize>) -> bool {
        let mut index = index;
        while self.running[index].pages.len() < tokens.div_ceil(PAGE_TOKENS) {
            if let Some(page) = self.kv.free_page() {
                self.running[index].pages.push(page);
                continue;
            }
            let ranks = self.running.iter().map(Sequence::rank).enumerate();
            let (victim, _) = ranks.max_by_key(|(_, rank)| *rank).expect("somebody is running");
            self.preempt(victim);
            if victim < parts.len() {
                parts.remove(victim);
            }
            if victim == index {
                return false;
            }
            index -= usize::from(victim < index);
        }
        true
    }

    /// Tells a sequence's caller that it is finished. Its pages have been given back.
    pub(super) fn finish(shared: &Shared, totals: &mut Status, mut sequence: Sequence, reason: FinishReason) {
        let usage = sequence.usage_at_the_end();
        totals.finished += 1;
        totals.cached_tokens += usage.cached_tokens as u64;
        if !sequence.request.started.replace(true) {
            shared.queued.fetch_sub(1, Ordering::Relaxed);
        }
        let generation = match &mut sequence.task {
            Task::Generate(generation) if sequence.first_step.is_some() => generation,
            // Half a vector is none, and an answer that never began is no empty answer.
            task => {
                totals.finished += task.siblings() as u64;
                let ended = EngineError::Ended { reason: reason.name(), usage };
                return sequence.request.tell(Output::Failed(ended));
            }
        };
        for mut sibling in std::mem::take(&mut generation.siblings) {
            (sibling.first_step, sibling.usage.queue_seconds) = (sequence.first_step, usage.queue_seconds);
            Self::finish(shared, totals, sibling, reason.clone());
        }
        let (held, text) = generation.teller.finish(&reason);
        let (choice, seed) = (sequence.choice, generation.drawing.seed);
        held.into_iter()
            .for_each(|(token, text)| sequence.request.tell(Output::Token { choice, token, text }));
        sequence.request.tell(Output::Finished { choice, text, reason, seed, usage });
    }

    /// Lets everybody see what is going on.
    fn publish(&self) {
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = std::mem::take(&mut status.slots);
        *status = Status {
            waiting: self.waiting.len(),
            running: self.running.len(),
            pages: self.kv.pages.total(),
            used_pages: self.kv.pages.used(),
            cached_pages: self.kv.pages.idle(),
            slots,
            ..self.totals.clone()
        };
        status.slots.clear();
        status.slots.extend(self.running.iter().map(Sequence::status));
    }
}

/// Pages that a sequence will need for the tokens it has and the next, and does not hold.
fn missing_pages(sequence: &Sequence) -> usize {
    (sequence.tokens.len() + 1).div_ceil(PAGE_TOKENS).saturating_sub(sequence.pages.len())
}
