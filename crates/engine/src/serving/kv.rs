//! The memory of keys and values: its pages, and what of them sequences share.

use super::pages::Pages;
use super::prefix::{Found, PrefixCache};
use super::sequence::{Sequence, Task};
use super::slots::Slots;
use crate::EngineError;
use alti_tensor::{Backend, CacheLayout, KvDType, PAGE_TOKENS};
use std::ops::Range;

/// Beginnings of pages shorter than this are computed again rather than copied.
const LEAST_COPIED: usize = 8;

/// Bytes of pages that were never used for which there is memory when a model is loaded and whenever nobody asks: on
/// virtual machines the first write to a page can take longer than the step it belongs to.
const AHEAD: usize = 256 << 20;

/// Pages of keys and values, and the prefix tree over them.
pub(super) struct KvMemory<B: Backend> {
    pub(super) cache: B::Cache,
    /// Layer groups of the cache; a page is the same index in all of them.
    pub(super) groups: usize,
    pub(super) dtype: KvDType,
    pub(super) pages: Pages,
    pub(super) tree: PrefixCache,
    /// Texts that slots name.
    pub(super) slots: Slots,
    /// Whether sequences share what they have in common.
    pub(super) shares: bool,
    page_bytes: Vec<u8>,
    /// Pages for which the system has granted memory.
    granted: usize,
    /// How many pages that were never used have theirs.
    ahead: usize,
}

impl<B: Backend> KvMemory<B> {
    pub(super) fn new(backend: &B, layout: &CacheLayout, shares: bool) -> Result<Self, EngineError> {
        let pages = layout.groups.iter().map(|group| group.pages).min().unwrap_or(0);
        Ok(KvMemory {
            cache: backend.cache(layout)?,
            groups: layout.groups.len(),
            dtype: layout.dtype,
            pages: Pages::new(pages),
            tree: PrefixCache::default(),
            slots: Slots::new(pages * PAGE_TOKENS),
            shares,
            page_bytes: Vec::new(),
            granted: 0,
            ahead: AHEAD / (layout.bytes() / pages.max(1)).max(1),
        })
    }

    /// Pages that are used next and have no memory yet, at most so many.
    pub(super) fn grant(&mut self, most: usize) -> Range<u32> {
        let wanted = (self.pages.fresh() + self.ahead).min(self.pages.total());
        let first = self.granted.max(self.pages.fresh()).min(wanted);
        self.granted = wanted.min(first.saturating_add(most)).max(self.granted);
        first as u32..self.granted.max(first) as u32
    }

    /// Pages that can be had.
    pub(super) fn available(&self) -> usize {
        self.pages.free() + self.pages.idle()
    }

    pub(super) fn free_page(&mut self) -> Option<u32> {
        if self.pages.free() == 0 {
            self.tree.evict(&mut self.pages);
        }
        self.pages.take()
    }

    /// Lets a sequence use what the prefix tree holds of its next tokens: whole pages shared, the beginning of one copied.
    pub(super) fn adopt(&mut self, backend: &mut B, sequence: &mut Sequence) {
        if let Some((page, tokens)) = self.adopt_pages(sequence) {
            self.copy_beginning(backend, sequence, page, tokens);
        }
    }

    /// The same with whole pages alone; returns a page that begins with the next tokens, and how many of them. The last
    /// token is always computed: what is asked of it is not in the cache.
    pub(super) fn adopt_pages(&mut self, sequence: &mut Sequence) -> Option<(u32, usize)> {
        let job = &sequence.request.job;
        if !self.shares || !job.cache_prompt || matches!(sequence.task, Task::Embed(..)) {
            return None;
        }
        let (mut node, mut full) = match sequence.place {
            Some(place) => place,
            None => (self.tree.root(&job.domain), 0),
        };
        sequence.place = Some((node, full));
        if sequence.wants_prompt() {
            return None;
        }
        let last = sequence.tokens.len() - 1;
        let (mut beginning, mut used) = (None, None);
        while sequence.computed == full * PAGE_TOKENS && sequence.computed < last {
            let found = self.tree.find(node, &sequence.tokens[sequence.computed..]);
            used = found.node().or(used);
            match found {
                Found::Page { node: next, page } if sequence.computed + PAGE_TOKENS <= last => {
                    self.pages.hold(page);
                    match sequence.pages.get_mut(full) {
                        // A page was set aside for these tokens.
                        Some(own) => self.pages.release(std::mem::replace(own, page)),
                        None => sequence.pages.push(page),
                    }
                    (node, full) = (next, full + 1);
                    sequence.computed += PAGE_TOKENS;
                    continue;
                }
                Found::Page { page, .. } => beginning = Some((page, PAGE_TOKENS)),
                Found::Beginning { page, tokens, .. } => beginning = Some((page, tokens)),
                Found::Nothing => (),
            }
            break;
        }
        if let Some(used) = used {
            self.tree.use_again(used);
        }
        sequence.place = Some((node, full));
        beginning
    }

    /// Copies a page of which the first `tokens` tokens are the sequence's next, for it to write on.
    fn copy_beginning(&mut self, backend: &mut B, sequence: &mut Sequence, page: u32, tokens: usize) {
        let tokens = tokens.min(sequence.tokens.len() - 1 - sequence.computed);
        if tokens < LEAST_COPIED {
            return;
        }
        let full = sequence.computed / PAGE_TOKENS;
        // Held while another is looked for, which may be by eviction.
        self.pages.hold(page);
        let own = sequence.pages.get(full).copied().or_else(|| self.free_page());
        if let Some(own) = own {
            if self.copy_page(backend, page, own).is_ok() {
                sequence.computed += tokens;
            }
            if sequence.pages.len() == full {
                sequence.pages.push(own);
            }
        }
        self.pages.release(page);
    }

    pub(super) fn copy_page(&mut self, backend: &mut B, from: u32, to: u32) -> Result<(), EngineError> {
        self.page_bytes.clear();
        backend.read_page(&self.cache, from, &mut self.page_bytes);
        Ok(backend.write_page(&self.cache, to, &self.page_bytes)?)
    }

    /// Puts a sequence's full pages into the prefix tree.
    pub(super) fn enter_pages(&mut self, sequence: &mut Sequence) {
        let Some((mut node, mut full)) = sequence.place else { return };
        let before = full;
        while (full + 1) * PAGE_TOKENS <= sequence.computed {
            let tokens = &sequence.tokens[full * PAGE_TOKENS..(full + 1) * PAGE_TOKENS];
            let own = &mut sequence.pages[full];
            node = self.tree.insert(&mut self.pages, node, tokens, *own);
            let known = self.tree.page(node);
            if known != *own {
                // Another has computed the same: one copy is enough.
                self.pages.hold(known);
                self.pages.release(std::mem::replace(own, known));
            }
            full += 1;
        }
        if full > before {
            self.tree.use_again(node);
        }
        sequence.place = Some((node, full));
    }

    /// Leaves what a finished sequence has computed to others, and gives its pages back.
    pub(super) fn retire(&mut self, sequence: &mut Sequence) {
        self.enter_pages(sequence);
        self.note_slot(sequence);
        if let Some((node, full)) = sequence.place {
            let tail = full * PAGE_TOKENS..sequence.computed;
            if tail.len() >= LEAST_COPIED {
                let end =
                    self.tree.insert(&mut self.pages, node, &sequence.tokens[tail], sequence.pages[full]);
                self.tree.use_again(end);
            }
        }
        self.release(sequence);
    }

    /// Gives a sequence's pages back; nothing of it is computed then.
    pub(super) fn release(&mut self, sequence: &mut Sequence) {
        sequence.pages.drain(..).for_each(|page| self.pages.release(page));
        sequence.computed = 0;
        sequence.place = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_tensor::{CacheGroup, Reference};

    #[test]
    fn memory_is_granted_once_in_the_order_of_use_and_not_for_pages_in_use() {
        let groups = vec![CacheGroup { layers: 1, pages: 10 }];
        let layout = CacheLayout { groups, kv_heads: 1, head_dim: 2, dtype: KvDType::F32 };
        let mut kv = KvMemory::<Reference<f32>>::new(&Reference::default(), &layout, true).unwrap();
        kv.ahead = 4;
        assert_eq!([kv.grant(3), kv.grant(3), kv.grant(3)], [0..3, 3..4, 4..4]);
        let taken: Vec<u32> = (0..6).filter_map(|_| kv.free_page()).collect();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5]);
        assert_eq!(kv.grant(1), 6..7, "the steps that use 4 and 5 have had theirs granted");
        taken.into_iter().for_each(|page| kv.pages.release(page));
        assert_eq!([kv.grant(usize::MAX), kv.grant(1)], [7..10, 10..10]);
    }
}
