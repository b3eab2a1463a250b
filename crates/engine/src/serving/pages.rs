//! The pool of pages of keys and values: who holds which.
//!
//! A page is an index, valid in every layer group of the cache. Sequences and the prefix tree share pages that are
//! full; a page is free when nobody holds it, and idle when only the tree does, which gives it up when it must.

/// Counts who holds each page.
#[derive(Debug)]
pub(super) struct Pages {
    free: Vec<u32>,
    holders: Vec<u32>,
    in_tree: Vec<bool>,
    idle: usize,
    /// Pages from here on were never taken.
    fresh: usize,
}

impl Pages {
    /// So many free pages.
    pub(super) fn new(count: usize) -> Pages {
        let free = (0..count as u32).rev().collect();
        Pages { free, holders: vec![0; count], in_tree: vec![false; count], idle: 0, fresh: 0 }
    }

    pub(super) fn total(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// The first page that was never taken: those behind it are taken in order.
    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Pages that only the tree holds.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }

    /// Pages that sequences hold.
    pub(super) fn used(&self) -> usize {
        self.total() - self.free() - self.idle
    }

    /// A free page, held once.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        self.fresh = self.fresh.max(page as usize + 1);
        Some(page)
    }

    /// One more holder of a page that somebody holds.
    pub(super) fn hold(&mut self, page: u32) {
        let index = page as usize;
        debug_assert!(self.holders[index] > 0, "page {page} is free");
        self.idle -= usize::from(self.is_idle(page));
        self.holders[index] += 1;
    }

    /// One holder less.
    pub(super) fn release(&mut self, page: u32) {
        let index = page as usize;
        debug_assert!(self.holders[index] > 0, "page {page} is free");
        self.holders[index] -= 1;
        match self.holders[index] {
            0 => self.free.push(page),
            _ => self.idle += usize::from(self.is_idle(page)),
        }
    }

    /// The tree holds the page from now on, too.
    pub(super) fn enter_tree(&mut self, page: u32) {
        self.hold(page);
        self.in_tree[page as usize] = true;
    }

    /// The tree gives the page up.
    pub(super) fn leave_tree(&mut self, page: u32) {
        self.idle -= usize::from(self.is_idle(page));
        self.in_tree[page as usize] = false;
        self.release(page);
    }

    /// Whether only the tree holds the page.
    pub(super) fn is_idle(&self, page: u32) -> bool {
        self.in_tree[page as usize] && self.holders[page as usize] == 1
    }
}

#[cfg(test)]
mod tests {
    use super::Pages;

    #[test]
    fn a_page_is_free_used_or_idle() {
        let mut pages = Pages::new(2);
        let page = pages.take().unwrap();
        assert_eq!((pages.free(), pages.used(), pages.idle()), (1, 1, 0));
        pages.enter_tree(page);
        assert_eq!((pages.free(), pages.used(), pages.idle()), (1, 1, 0));
        pages.release(page);
        assert_eq!((pages.free(), pages.used(), pages.idle()), (1, 0, 1));
        pages.hold(page);
        assert_eq!((pages.free(), pages.used(), pages.idle()), (1, 1, 0));
        pages.release(page);
        pages.leave_tree(page);
        assert_eq!((pages.free(), pages.used(), pages.idle()), (2, 0, 0));
        assert!(pages.take().is_some() && pages.take().is_some() && pages.take().is_none());
    }
}
