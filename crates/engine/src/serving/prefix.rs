//! The prefix cache: a radix tree over tokens whose edges are pages.
//!
//! ```text
//! root of a domain ── [64 tokens, page 7] ── [64 tokens, page 9] ── [20 tokens, page 3]
//!                                         └─ [64 tokens, page 4]
//! ```
//!
//! A path from a root spells the tokens whose keys and values its pages hold. Full pages are shared as they are; of a
//! page that agrees only at its beginning, or is not full, a sequence takes a copy and writes on. Whoever needs memory
//! takes it from the leaf that was used longest ago.

use super::job::CacheDomain;
use super::pages::Pages;
use alti_tensor::PAGE_TOKENS;
use std::collections::{BTreeMap, HashMap};

/// A node's name; valid while its page is held by more than the tree, or until something is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(usize);

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    /// The page's tokens, at most [`PAGE_TOKENS`]; none in a root.
    tokens: Box<[u32]>,
    page: u32,
    /// Children by their first token.
    children: HashMap<u32, Vec<usize>>,
    /// When it was last used: a key of `by_use`.
    used: u64,
}

/// What a tree knows of the tokens that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A full page of exactly these tokens.
    Page {
        /// Its node.
        node: NodeId,
        /// The page.
        page: u32,
    },
    /// A page that begins with so many of these tokens.
    Beginning {
        /// Its node.
        node: NodeId,
        /// The page.
        page: u32,
        /// Tokens in common.
        tokens: usize,
    },
    /// Nothing.
    Nothing,
}

impl Found {
    /// The node of what was found.
    pub(super) fn node(&self) -> Option<NodeId> {
        match *self {
            Found::Page { node, .. } | Found::Beginning { node, .. } => Some(node),
            Found::Nothing => None,
        }
    }
}

/// A page of the tree.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// Index, in the same list, of the page above it.
    pub(super) parent: Option<usize>,
    pub(super) domain: &'a CacheDomain,
    pub(super) tokens: &'a [u32],
    pub(super) page: u32,
}

/// The tree.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    nodes: Vec<Node>,
    unused: Vec<usize>,
    roots: HashMap<CacheDomain, usize>,
    /// Nodes with a page, the one used longest ago first.
    by_use: BTreeMap<u64, usize>,
    clock: u64,
}

impl PrefixCache {
    /// The root of a domain.
    pub(super) fn root(&mut self, domain: &CacheDomain) -> NodeId {
        if let Some(&root) = self.roots.get(domain) {
            return NodeId(root);
        }
        let root = self.add(Node::default());
        self.roots.insert(domain.clone(), root);
        NodeId(root)
    }

    /// What is known below `node` of `tokens`, of which at most a page's worth is looked at. Whoever goes down a path says
    /// where it ends by [`PrefixCache::use_again`]: once, and not for each page of it.
    pub(super) fn find(&self, node: NodeId, tokens: &[u32]) -> Found {
        let Some(siblings) = tokens.first().and_then(|first| self.nodes[node.0].children.get(first)) else {
            return Found::Nothing;
        };
        let common = |&child: &usize| common(&self.nodes[child].tokens, tokens);
        let Some((length, child)) = siblings.iter().map(|child| (common(child), *child)).max() else {
            return Found::Nothing;
        };
        let (node, page) = (NodeId(child), self.nodes[child].page);
        match length {
            PAGE_TOKENS => Found::Page { node, page },
            tokens => Found::Beginning { node, page, tokens },
        }
    }

    /// Notes that `page` holds `tokens`, a full page or the beginning of one, below `node`. If that was known of another
    /// page, nothing is added and the node of the other is returned. Here, too, the end of a path is told by
    /// [`PrefixCache::use_again`].
    pub(super) fn insert(&mut self, pages: &mut Pages, node: NodeId, tokens: &[u32], page: u32) -> NodeId {
        if let Some(known) = self.known(node, tokens) {
            return known;
        }
        let child = self.add(Node { parent: Some(node.0), tokens: tokens.into(), page, ..Node::default() });
        self.nodes[node.0].children.entry(tokens[0]).or_default().push(child);
        pages.enter_tree(page);
        self.mark(child);
        NodeId(child)
    }

    /// The page of a node.
    pub(super) fn page(&self, node: NodeId) -> u32 {
        self.nodes[node.0].page
    }

    /// Gives up the idle page that was used longest ago; whether there was one.
    pub(super) fn evict(&mut self, pages: &mut Pages) -> bool {
        let is_leaf = |node: &Node| node.children.is_empty() && pages.is_idle(node.page);
        let Some(victim) = self.by_use.values().copied().find(|&node| is_leaf(&self.nodes[node])) else {
            return false;
        };
        self.remove(pages, victim);
        true
    }

    /// Notes that a node was used just now, and those above it later: leaves go before what they stand on.
    pub(super) fn use_again(&mut self, node: NodeId) {
        let mut next = node.0;
        while let Some(parent) = self.nodes[next].parent {
            self.mark(next);
            next = parent;
        }
    }

    /// Gives up a page that nobody uses, that nothing follows, and that holds no more than `tokens` tokens; whether it was
    /// one.
    pub(super) fn forget_leaf(&mut self, pages: &mut Pages, node: NodeId, tokens: usize) -> bool {
        let found = &self.nodes[node.0];
        let is_leaf = found.children.is_empty() && found.tokens.len() <= tokens && pages.is_idle(found.page);
        if is_leaf {
            self.remove(pages, node.0);
        }
        is_leaf
    }

    /// Forgets all that the domains which `concerns` names hold; pages in use stay with their users.
    pub(super) fn forget(&mut self, pages: &mut Pages, concerns: impl Fn(&CacheDomain) -> bool) {
        let domains: Vec<CacheDomain> =
            self.roots.keys().filter(|domain| concerns(domain)).cloned().collect();
        for domain in domains {
            let root = self.roots.remove(&domain).expect("it was just listed");
            self.forget_below(pages, root);
            self.unused.push(root);
        }
    }

    /// Every page with its tokens, those above before those below.
    pub(super) fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        let mut open: Vec<_> = self.roots.iter().map(|(domain, &root)| (domain, root, None)).collect();
        while let Some((domain, node, parent)) = open.pop() {
            let node = &self.nodes[node];
            let parent = match node.tokens.is_empty() {
                true => parent,
                false => {
                    entries.push(Entry { parent, domain, tokens: &node.tokens, page: node.page });
                    Some(entries.len() - 1)
                }
            };
            open.extend(node.children.values().flatten().map(|&child| (domain, child, parent)));
        }
        entries
    }

    /// The page below `node` that holds `tokens`, if there is one.
    pub(super) fn known(&self, node: NodeId, tokens: &[u32]) -> Option<NodeId> {
        let siblings = self.nodes[node.0].children.get(tokens.first()?)?;
        siblings.iter().copied().find(|&child| self.nodes[child].tokens.starts_with(tokens)).map(NodeId)
    }

    fn add(&mut self, node: Node) -> usize {
        match self.unused.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Marks a node with a page as the one used last.
    fn mark(&mut self, index: usize) {
        self.clock += 1;
        let before = std::mem::replace(&mut self.nodes[index].used, self.clock);
        self.by_use.remove(&before);
        self.by_use.insert(self.clock, index);
    }

    fn remove(&mut self, pages: &mut Pages, index: usize) {
        let node = std::mem::take(&mut self.nodes[index]);
        self.by_use.remove(&node.used);
        pages.leave_tree(node.page);
        let parent = node.parent.expect("roots are not removed");
        if let Some(siblings) = self.nodes[parent].children.get_mut(&node.tokens[0]) {
            siblings.retain(|&sibling| sibling != index);
            if siblings.is_empty() {
                self.nodes[parent].children.remove(&node.tokens[0]);
            }
        }
        self.unused.push(index);
    }

    fn forget_below(&mut self, pages: &mut Pages, root: usize) {
        let mut order = vec![root];
        let mut next = 0;
        while next < order.len() {
            order.extend(self.nodes[order[next]].children.values().flatten());
            next += 1;
        }
        order[1..].iter().rev().for_each(|&node| self.remove(pages, node));
    }
}

/// Tokens at the beginning that two texts have in common.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32, count: usize) -> Vec<u32> {
        (0..count as u32).map(|index| seed * 1000 + index).collect()
    }

    #[test]
    fn full_pages_are_shared_and_beginnings_told() {
        let (mut pages, mut tree) = (Pages::new(4), PrefixCache::default());
        let root = tree.root(&CacheDomain::default());
        let first = pages.take().unwrap();
        let text = tokens(1, PAGE_TOKENS);
        let node = tree.insert(&mut pages, root, &text, first);
        assert_eq!(tree.find(root, &[&text[..], &[7]].concat()), Found::Page { node, page: first });
        assert_eq!(tree.find(root, &text[..10]), Found::Beginning { node, page: first, tokens: 10 });
        assert_eq!(tree.find(root, &[5]), Found::Nothing);
        let tail = pages.take().unwrap();
        let end = tree.insert(&mut pages, node, &tokens(2, 20), tail);
        assert_eq!(tree.find(node, &tokens(2, 64)), Found::Beginning { node: end, page: tail, tokens: 20 });
        let other = tree.root(&CacheDomain { tenant: "other".to_owned(), adapter: None });
        assert_eq!(tree.find(other, &text), Found::Nothing, "tenants see nothing of each other");
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_in_use_stays() {
        let (mut pages, mut tree) = (Pages::new(3), PrefixCache::default());
        let root = tree.root(&CacheDomain::default());
        let held: Vec<u32> = (0..3).map(|_| pages.take().unwrap()).collect();
        let parent = tree.insert(&mut pages, root, &tokens(1, PAGE_TOKENS), held[0]);
        let child = tree.insert(&mut pages, parent, &tokens(2, PAGE_TOKENS), held[1]);
        tree.insert(&mut pages, root, &tokens(3, PAGE_TOKENS), held[2]);
        assert!(!tree.evict(&mut pages), "everything is in use");
        held.iter().for_each(|&page| pages.release(page));
        assert_eq!(pages.idle(), 3);
        tree.use_again(child);
        assert_eq!(tree.clock, 3 + 2, "it and what is above it are marked, once each");
        assert!(tree.evict(&mut pages));
        assert_eq!(tree.find(root, &tokens(3, PAGE_TOKENS)), Found::Nothing);
        assert!(tree.evict(&mut pages));
        assert_eq!(tree.find(parent, &tokens(2, PAGE_TOKENS)), Found::Nothing, "leaves before their parents");
        assert!(tree.evict(&mut pages) && !tree.evict(&mut pages));
        assert_eq!(pages.free(), 3);
    }

    #[test]
    fn the_same_tokens_are_kept_once() {
        let (mut pages, mut tree) = (Pages::new(2), PrefixCache::default());
        let root = tree.root(&CacheDomain::default());
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        let node = tree.insert(&mut pages, root, &tokens(1, PAGE_TOKENS), a);
        assert_eq!(tree.insert(&mut pages, root, &tokens(1, PAGE_TOKENS), b), node);
        assert_eq!(tree.insert(&mut pages, root, &tokens(1, 10), b), node);
        pages.release(b);
        assert_eq!(pages.free(), 1);
        tree.forget(&mut pages, |_| true);
        pages.release(a);
        assert_eq!(pages.free(), 2);
    }
}
