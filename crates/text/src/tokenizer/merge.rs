//! Byte-pair merging: of all neighbouring symbols that may merge, the pair with the lowest rank merges first, the
//! leftmost of equals, until none is left. The same engine serves byte-level BPE (ranks are the positions in the
//! list of merges), tiktoken (the rank of a pair is the id of what it spells) and SentencePiece (the rank is the
//! order of the scores).
//!
//! Short pieces, nearly all there are, scan for the lowest rank; long ones keep a heap, so that a megabyte without a
//! border costs n log n and not n squared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::RandomState;

use super::vocabulary::Vocabulary;

/// Pieces of up to this many symbols are scanned, longer ones use the heap.
const SCAN_LIMIT: usize = 48;

/// A symbol that no token spells: it never merges by id, and the caller decides what becomes of its bytes.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Part of a piece: its byte range and the token that spells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Symbol {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) id: u32,
}

/// What two symbols become, and how early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Merge {
    pub(crate) rank: u32,
    pub(crate) id: u32,
}

/// Which pairs merge, and in what order.
#[derive(Clone)]
pub(crate) enum MergeRules {
    /// An explicit list: (left id, right id) packed by [`pair_key`].
    Pairs(HashMap<u64, Merge, RandomState>),
    /// Two symbols merge where their bytes are a token; its id is the rank (tiktoken).
    IdIsRank,
    /// Two symbols merge where their bytes are a token; its entry here is the rank (SentencePiece scores).
    RankOfToken(Vec<u32>),
}

/// The key of a pair in [`MergeRules::Pairs`].
pub(crate) fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl MergeRules {
    fn merge(&self, vocabulary: &Vocabulary, text: &[u8], left: Symbol, right: Symbol) -> Option<Merge> {
        let token = || vocabulary.find_text(&text[left.start as usize..right.end as usize]);
        match self {
            Self::Pairs(pairs) => pairs.get(&pair_key(left.id, right.id)).copied(),
            Self::IdIsRank => token().map(|id| Merge { rank: id, id }),
            Self::RankOfToken(ranks) => token().map(|id| Merge { rank: ranks[id as usize], id }),
        }
    }
}

/// Buffers kept from piece to piece.
#[derive(Default)]
pub(crate) struct Scratch {
    candidates: Vec<Option<Merge>>,
    links: Vec<Link>,
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Merges `symbols` (consecutive parts of `text`) as far as the rules go.
pub(crate) fn merge_symbols(
    rules: &MergeRules,
    vocabulary: &Vocabulary,
    text: &[u8],
    symbols: &mut Vec<Symbol>,
    scratch: &mut Scratch,
) {
    let merge = |left: Symbol, right: Symbol| rules.merge(vocabulary, text, left, right);
    if symbols.len() <= SCAN_LIMIT {
        merge_by_scan(merge, symbols, &mut scratch.candidates);
    } else {
        merge_by_heap(merge, symbols, scratch);
    }
}

fn merge_by_scan(
    merge: impl Fn(Symbol, Symbol) -> Option<Merge>,
    symbols: &mut Vec<Symbol>,
    candidates: &mut Vec<Option<Merge>>,
) {
    candidates.clear();
    candidates.extend(symbols.windows(2).map(|pair| merge(pair[0], pair[1])));
    let lowest = |candidates: &[Option<Merge>]| {
        let found =
            candidates.iter().enumerate().filter_map(|(at, merge)| merge.map(|merge| (merge.rank, at)));
        found.min().map(|(_, at)| at)
    };
    while let Some(at) = lowest(candidates) {
        if let Some(merged) = candidates[at] {
            symbols[at] = Symbol { start: symbols[at].start, end: symbols[at + 1].end, id: merged.id };
        }
        symbols.remove(at + 1);
        candidates.remove(at);
        if at > 0 {
            candidates[at - 1] = merge(symbols[at - 1], symbols[at]);
        }
        if at + 1 < symbols.len() {
            candidates[at] = merge(symbols[at], symbols[at + 1]);
        }
    }
}

/// The heap holds (rank, left position, id of the result). An entry is stale when the pair at that position would no
/// longer give that result; then it is dropped, as what the pair became has its own entry.
fn merge_by_heap(
    merge: impl Fn(Symbol, Symbol) -> Option<Merge>,
    symbols: &mut Vec<Symbol>,
    scratch: &mut Scratch,
) {
    let Scratch { links, queue, .. } = scratch;
    let last = symbols.len() as u32 - 1;
    links.clear();
    links.extend((0..=last).map(|at| Link {
        previous: if at == 0 { NONE } else { at - 1 },
        next: if at == last { NONE } else { at + 1 },
    }));
    queue.clear();
    let consider = |symbols: &[Symbol], queue: &mut BinaryHeap<_>, left: u32, right: u32| {
        if let Some(found) = merge(symbols[left as usize], symbols[right as usize]) {
            queue.push(Reverse((found.rank, left, found.id)));
        }
    };
    for left in 0..last {
        consider(symbols, queue, left, left + 1);
    }
    while let Some(Reverse((rank, left, id))) = queue.pop() {
        let Link { previous, next: right } = links[left as usize];
        let gone = symbols[left as usize].start == symbols[left as usize].end;
        if gone || right == NONE {
            continue;
        }
        if merge(symbols[left as usize], symbols[right as usize]) != Some(Merge { rank, id }) {
            continue;
        }
        let after = links[right as usize].next;
        symbols[left as usize].end = symbols[right as usize].end;
        symbols[left as usize].id = id;
        symbols[right as usize].end = symbols[right as usize].start;
        links[left as usize].next = after;
        if after != NONE {
            links[after as usize].previous = left;
            consider(symbols, queue, left, after);
        }
        if previous != NONE {
            consider(symbols, queue, previous, left);
        }
    }
    symbols.retain(|symbol| symbol.start != symbol.end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use alti_formats::tokenizer::TokenKind;

    fn toy(tokens: &[String]) -> Vocabulary {
        let mut vocabulary = Vocabulary::with_capacity(tokens.len());
        for token in tokens {
            vocabulary.push(TokenKind::Normal, |bytes| bytes.extend_from_slice(token.as_bytes())).unwrap();
        }
        vocabulary
    }

    proptest! {
        /// Scan and heap are the same function, whatever the vocabulary.
        #[test]
        fn scan_and_heap_agree(
            text in "[abc]{2,120}",
            pairs in proptest::collection::vec("[abc]{2,5}", 1..40),
            ranks in proptest::collection::vec(0u32..6, 43),
        ) {
            let tokens: Vec<String> = ["a", "b", "c"].map(String::from).into_iter().chain(pairs).collect();
            let vocabulary = toy(&tokens);
            let symbols: Vec<Symbol> = (0..text.len() as u32)
                .map(|at| Symbol { start: at, end: at + 1, id: vocabulary.find(&text.as_bytes()[at as usize..=at as usize]).unwrap() })
                .collect();
            for rules in [MergeRules::IdIsRank, MergeRules::RankOfToken(ranks)] {
                let merge = |left, right| rules.merge(&vocabulary, text.as_bytes(), left, right);
                let (mut scanned, mut heaped) = (symbols.clone(), symbols.clone());
                merge_by_scan(merge, &mut scanned, &mut Vec::new());
                merge_by_heap(merge, &mut heaped, &mut Scratch::default());
                prop_assert_eq!(scanned, heaped);
            }
        }
    }
}
