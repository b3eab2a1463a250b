//! How a text is cut into chunks: at the ends of lines and sentences where it can be, with some of each chunk again at the
//! beginning of the next, so that what stands at a cut can be found.

use crate::error::{ApiError, ApiResult};
use serde_json::{Value, json};

/// How texts are cut, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunking {
    /// Most tokens of a chunk.
    pub(super) size: usize,
    /// Most tokens of a chunk that are in the next one, too.
    pub(super) overlap: usize,
}

impl Chunking {
    /// What OpenAI calls `auto`.
    const AUTO: Chunking = Chunking { size: 800, overlap: 400 };

    /// Reads `chunking_strategy`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(value: Option<&Value>) -> ApiResult<Chunking> {
        let Some(value) = value else { return Ok(Chunking::AUTO) };
        let refuse = |message: &str| {
            Err(ApiError::field("chunking_strategy", format!("`chunking_strategy` {message}")))
        };
        match value["type"].as_str() {
            Some("auto") => Ok(Chunking::AUTO),
            Some("static") => {
                let number = |name: &str| value["static"][name].as_u64().map(|number| number as usize);
                let Some(size) = number("max_chunk_size_tokens").filter(|size| (100..=4096).contains(size))
                else {
                    return refuse("needs `static.max_chunk_size_tokens`, from 100 to 4096");
                };
                match number("chunk_overlap_tokens").filter(|overlap| *overlap <= size / 2) {
                    Some(overlap) => Ok(Chunking { size, overlap }),
                    None => refuse("needs `static.chunk_overlap_tokens`, at most half of the size"),
                }
            }
            _ => refuse("needs a `type`: auto or static"),
        }
    }

    /// As it is stored and shown.
    pub(super) fn object(&self) -> Value {
        json!({
            "type": "static",
            "static": { "max_chunk_size_tokens": self.size, "chunk_overlap_tokens": self.overlap },
        })
    }

    /// Cuts a text; `count` says how many tokens a piece has.
    pub(super) fn cut(&self, text: &str, count: impl Fn(&str) -> usize) -> Vec<String> {
        let mut pieces = Vec::new();
        split(text, 0, self.size, &count, &mut pieces);
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < pieces.len() {
            let (mut end, mut tokens) = (first, 0);
            while end < pieces.len() && (end == first || tokens + pieces[end].1 <= self.size) {
                tokens += pieces[end].1;
                end += 1;
            }
            let chunk: String = pieces[first..end].iter().map(|(piece, _)| *piece).collect();
            if !chunk.trim().is_empty() {
                chunks.push(chunk.trim().to_owned());
            }
            if end == pieces.len() {
                break;
            }
            // The next chunk begins with what is still within the overlap, and always goes on.
            let (mut begin, mut shared) = (end, 0);
            while begin > first + 1 && shared + pieces[begin - 1].1 <= self.overlap {
                begin -= 1;
                shared += pieces[begin].1;
            }
            first = begin;
        }
        chunks
    }
}

/// Where pieces may end, from the best place to the worst.
const ENDS: [&[&str]; 4] = [&["\n\n"], &["\n"], &[". ", "! ", "? ", "。", "; "], &[" ", "\t"]];

/// Splits a text into pieces of at most `most` tokens, with their numbers of tokens.
fn split<'a>(
    text: &'a str,
    level: usize,
    most: usize,
    count: &impl Fn(&str) -> usize,
    into: &mut Vec<(&'a str, usize)>,
) {
    // Fine pieces make good overlaps: lines are always told apart.
    let tokens = count(text);
    if text.is_empty() || (tokens <= most && level > 1) || text.chars().nth(1).is_none() {
        if !text.is_empty() {
            into.push((text, tokens));
        }
        return;
    }
    let Some(ends) = ENDS.get(level) else {
        let middle =
            text.char_indices().map(|(at, _)| at).nth(text.chars().count() / 2).unwrap_or(text.len());
        split(&text[..middle], level, most, count, into);
        split(&text[middle..], level, most, count, into);
        return;
    };
    let mut rest = text;
    while let Some(end) = ends.iter().filter_map(|end| Some(rest.find(end)? + end.len())).min() {
        split(&rest[..end], level + 1, most, count, into);
        rest = &rest[end..];
    }
    split(rest, level + 1, most, count, into);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn chunks_overlap_and_end_where_sentences_do() {
        let chunking = Chunking { size: 8, overlap: 4 };
        let chunks = chunking.cut("One two three.\nFour five six. Seven.\nEight nine ten eleven.", words);
        assert_eq!(
            chunks,
            ["One two three.\nFour five six. Seven.", "Four five six. Seven.\nEight nine ten eleven."]
        );
        assert_eq!(chunking.cut("", words), Vec::<String>::new());
        assert_eq!(chunking.cut(" \n\n ", words), Vec::<String>::new());
    }

    #[test]
    fn a_strategy_is_read_as_openai_writes_it() {
        let read = |value: Value| Chunking::read(Some(&value));
        assert_eq!(read(json!({ "type": "auto" })).unwrap(), Chunking::AUTO);
        let own = json!({ "type": "static", "static": { "max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50 } });
        assert_eq!(read(own.clone()).unwrap().object(), own);
        for wrong in [
            json!({}),
            json!({ "type": "static" }),
            json!({ "type": "static", "static": { "max_chunk_size_tokens": 200, "chunk_overlap_tokens": 101 } }),
        ] {
            assert!(read(wrong).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_no_chunk_is_too_long(
            text in "([a-zé]{1,9}( |\\. |\n|\n\n)){0,80}",
            size in 1..20usize,
            overlap in 0..10usize,
        ) {
            let chunking = Chunking { size, overlap: overlap.min(size / 2) };
            let chunks = chunking.cut(&text, words);
            prop_assert!(chunks.iter().all(|chunk| words(chunk) <= size));
            let all = chunks.join(" ");
            let mut said = all.split_whitespace();
            for word in text.split_whitespace() {
                prop_assert!(said.any(|other| other == word), "{word} is lost");
            }
        }

        #[test]
        fn any_text_can_be_cut(text in "\\PC{0,200}", size in 1..9usize) {
            let chunks = Chunking { size, overlap: size / 2 }.cut(&text, |text| text.len());
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= size || chunk.chars().count() == 1));
        }
    }
}
