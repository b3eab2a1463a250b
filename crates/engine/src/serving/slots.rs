//! Slots: numbers under which the engine remembers which text was computed last, so that its keys and values can be
//! written to a file, brought back later or elsewhere, and given up.
//!
//! A slot holds no pages. What it names is in the prefix tree like everything else that was computed, where all of its
//! owner's requests find it, and where it makes room for others when they need it.

use super::job::CacheDomain;
use super::kv::KvMemory;
use super::prefix::NodeId;
use super::saved::SavedText;
use super::sequence::Sequence;
use crate::EngineError;
use alti_tensor::{Backend, PAGE_TOKENS};
use std::collections::HashMap;
use std::path::Path;

/// Whose slot, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName {
    /// Whose.
    pub domain: CacheDomain,
    /// Its number.
    pub slot: u32,
}

/// What is to be done with a slot.
#[derive(Clone, Copy, Debug)]
pub enum SlotAction<'a> {
    /// Its text is written to a file, with its keys and values; the name of the model goes with them, as in
    /// [`Engine::save_prefixes`](super::Engine::save_prefixes).
    Save(&'a Path, &'a str),
    /// The text in a file becomes the slot's.
    Restore(&'a Path, &'a str),
    /// The slot forgets its text, and what was computed of it alone.
    Erase,
}

/// The texts that slots name: together no more tokens than the cache has room for, those noted last.
#[derive(Debug)]
pub(super) struct Slots {
    texts: HashMap<SlotName, Text>,
    most_tokens: usize,
    clock: u64,
}

#[derive(Debug)]
struct Text {
    tokens: Vec<u32>,
    noted: u64,
}

impl Slots {
    /// None yet, and never more than so many tokens.
    pub(super) fn new(most_tokens: usize) -> Slots {
        Slots { texts: HashMap::new(), most_tokens, clock: 0 }
    }

    fn note(&mut self, name: SlotName, tokens: Vec<u32>) {
        self.clock += 1;
        self.texts.insert(name, Text { tokens, noted: self.clock });
        while self.texts.values().map(|text| text.tokens.len()).sum::<usize>() > self.most_tokens {
            let oldest = self.texts.iter().min_by_key(|(_, text)| text.noted).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return };
            self.texts.remove(&oldest);
        }
    }

    fn tokens(&self, name: &SlotName) -> Vec<u32> {
        self.texts.get(name).map(|text| text.tokens.clone()).unwrap_or_default()
    }
}

impl<B: Backend> KvMemory<B> {
    /// Takes note of what a sequence has computed, if it has a slot.
    pub(super) fn note_slot(&mut self, sequence: &Sequence) {
        let job = &sequence.request.job;
        // One that was cancelled before it began leaves its slot as it was.
        let has_something = sequence.place.is_some() && sequence.computed > 0;
        if let (Some(slot), true, 0) = (job.slot, has_something, sequence.choice) {
            let name = SlotName { domain: job.domain.clone(), slot };
            self.slots.note(name, sequence.tokens[..sequence.computed].to_vec());
        }
    }

    /// Forgets the slots of the domains which `concerns` names.
    pub(super) fn forget_slots(&mut self, concerns: impl Fn(&CacheDomain) -> bool) {
        self.slots.texts.retain(|name, _| !concerns(&name.domain));
    }

    /// A slot's text and its pages, as far as they have not made room for others.
    pub(super) fn read_slot(
        &mut self,
        backend: &B,
        name: &SlotName,
        model: &str,
    ) -> Result<SavedText, EngineError> {
        let tokens = self.slots.tokens(name);
        let path = self.nodes(&name.domain, &tokens);
        if path.is_empty() {
            return Err(EngineError::EmptySlot { slot: name.slot });
        }
        let pages: Vec<(&[u32], u32)> = tokens
            .chunks(PAGE_TOKENS)
            .zip(&path)
            .map(|(tokens, &node)| (tokens, self.tree.page(node)))
            .collect();
        Ok(self.saved_text(backend, &name.domain, &pages, model))
    }

    /// Makes the text that came from the file `path` the slot's, as far as there are pages that no answer uses. Answers
    /// how many tokens it has.
    pub(super) fn write_slot(
        &mut self,
        backend: &mut B,
        name: SlotName,
        text: &SavedText,
        path: &Path,
        model: &str,
    ) -> Result<usize, EngineError> {
        let tokens = self.take_text(backend, &name.domain, text, path, model)?;
        let count = tokens.len();
        if count == 0 {
            return Err(EngineError::NoRoomForSlot { slot: name.slot });
        }
        self.slots.note(name, tokens);
        Ok(count)
    }

    /// Forgets a slot's text and the pages that hold nothing else. Answers how many tokens it had.
    pub(super) fn erase_slot(&mut self, name: &SlotName) -> usize {
        let Some(Text { tokens, .. }) = self.slots.texts.remove(name) else { return 0 };
        let own = self.nodes(&name.domain, &tokens);
        let others = self.slots.texts.iter().filter(|(other, _)| other.domain == name.domain);
        let others: Vec<Vec<u32>> = others.map(|(_, text)| text.tokens.clone()).collect();
        let named: Vec<NodeId> = others.iter().flat_map(|text| self.nodes(&name.domain, text)).collect();
        let pages: Vec<(NodeId, usize)> =
            own.into_iter().zip(tokens.chunks(PAGE_TOKENS).map(<[u32]>::len)).collect();
        // What another slot names, others use or go on from stays, and so does what is in front of it.
        for (node, tokens) in pages.into_iter().rev() {
            if named.contains(&node) || !self.tree.forget_leaf(&mut self.pages, node, tokens) {
                break;
            }
        }
        tokens.len()
    }

    /// The pages of a text that are in the tree, from its beginning on.
    fn nodes(&mut self, domain: &CacheDomain, tokens: &[u32]) -> Vec<NodeId> {
        let mut node = self.tree.root(domain);
        let mut nodes = Vec::new();
        for tokens in tokens.chunks(PAGE_TOKENS) {
            let Some(next) = self.tree.known(node, tokens) else { break };
            nodes.push(next);
            node = next;
        }
        nodes
    }
}
