//! Merge lists for vocabularies that come without one. A vocabulary ordered by rank or score
//! determines them: every split of a token into two tokens is a merge, as strong as the token it
//! makes. So do the converters of transformers.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;

/// Every pair of tokens whose concatenation is a token, as (left, right, result): in the order
/// `compare` puts the results in, and by (left id, right id) where one token can be made in several
/// ways.
///
/// `splits` gives every way to cut a token in two.
pub(super) fn derive<'a, T: Eq + Hash + Copy + 'a>(
    tokens: &[(u32, T)],
    splits: impl Fn(T) -> Vec<(T, T)>,
    compare: impl Fn(u32, u32) -> Ordering,
) -> Vec<(T, T)> {
    let ids: HashMap<T, u32> = tokens.iter().map(|&(id, token)| (token, id)).collect();
    let mut merges: Vec<(u32, u32, u32, T, T)> = Vec::new();
    for &(id, token) in tokens {
        for (left, right) in splits(token) {
            if let (Some(&l), Some(&r)) = (ids.get(&left), ids.get(&right)) {
                merges.push((id, l, r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| compare(a.0, b.0).then(a.0.cmp(&b.0)).then((a.1, a.2).cmp(&(b.1, b.2))));
    merges.into_iter().map(|(_, _, _, left, right)| (left, right)).collect()
}

/// Every way to cut bytes in two.
pub(super) fn byte_splits(token: &[u8]) -> Vec<(&[u8], &[u8])> {
    (1..token.len()).map(|at| token.split_at(at)).collect()
}

/// Every way to cut text in two.
pub(super) fn text_splits(token: &str) -> Vec<(&str, &str)> {
    token.char_indices().skip(1).map(|(at, _)| token.split_at(at)).collect()
}
