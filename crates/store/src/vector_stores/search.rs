//! Search by meaning and by words at once: the chunks whose vectors are nearest, the chunks whose words match best
//! (BM25 of FTS5), and reciprocal rank fusion of both lists (Cormack, Clarke and Büttcher, SIGIR 2009): a chunk's score is
//! the sum over the lists of `weight / (60 + rank)`. Only ranks count, so that scores of different kinds need no scale.

use super::filter::{Attributes, Filter};
use super::{VectorStores, find, vectors};
use crate::error::{Result, StoreError};
use crate::now;
use rusqlite::{Row, Transaction, params};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// The constant of reciprocal rank fusion, as its paper has it.
const RANK_OFFSET: f64 = 60.0;

/// How many of each list are fused, at least: a chunk that is in the middle of both may beat the first of one.
const CANDIDATES: usize = 100;

/// Words of a query that are looked up, at most.
const MOST_WORDS: usize = 64;

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchQuery {
    /// Its words; empty looks for none.
    pub text: String,
    /// Its vector; `None` looks by words alone.
    pub vector: Option<Vec<f32>>,
    /// Most hits.
    pub limit: usize,
    /// Which files are meant.
    pub filter: Option<Filter>,
    /// How much nearness of vectors counts.
    pub vector_weight: f64,
    /// How much words count.
    pub text_weight: f64,
    /// The least score of a hit, 0 to 1.
    pub score_threshold: f64,
}

impl SearchQuery {
    /// A query that counts meaning and words alike.
    #[must_use]
    pub fn new(text: &str, vector: Option<Vec<f32>>, limit: usize) -> SearchQuery {
        SearchQuery {
            text: text.to_owned(),
            vector,
            limit,
            filter: None,
            vector_weight: 1.0,
            text_weight: 1.0,
            score_threshold: 0.0,
        }
    }
}

/// A chunk that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its file's id.
    pub file: String,
    /// Its file's name.
    pub file_name: String,
    /// Its file's attributes.
    pub attributes: Attributes,
    /// Which chunk of the file, from 0.
    pub ordinal: u64,
    /// Its text.
    pub text: String,
    /// How well it fits: 1 for what is first in every list, down to 0.
    pub score: f64,
    /// The cosine of the angle between its vector and the query's, if that had one.
    pub similarity: Option<f32>,
}

impl VectorStores<'_> {
    /// Looks for chunks, best first.
    ///
    /// # Errors
    /// When there is no such vector store, it has expired, or the query's vector is not of its model.
    pub fn search(&self, tenant: &str, id: &str, query: &SearchQuery) -> Result<Vec<Hit>> {
        let hits = self.store.read(|transaction| {
            let found = find(transaction, tenant, id)?;
            if found.expired {
                let (id, state) = (id.to_owned(), "expired".to_owned());
                let reason = "its files are not searched any more; make a new one";
                return Err(StoreError::Conflict { what: "vector store", id, state, reason });
            }
            search(transaction, id, query)
        })?;
        // Being searched is what keeps a store from expiring. That a read-only store cannot note it is no reason not to
        // answer.
        let _ = self.store.write(|transaction| {
            let sql = "UPDATE vector_stores SET last_active_at = ?1 WHERE id = ?2 AND last_active_at < ?1";
            transaction.execute(sql, params![now(), id])?;
            Ok(())
        });
        Ok(hits)
    }
}

fn search(transaction: &Transaction<'_>, id: &str, query: &SearchQuery) -> Result<Vec<Hit>> {
    let allowed = query.filter.as_ref().map(|filter| matching(transaction, id, filter)).transpose()?;
    let most = query.limit.saturating_mul(2).clamp(CANDIDATES, 10_000);
    let nearest = match &query.vector {
        Some(vector) if query.vector_weight > 0.0 => {
            nearest(transaction, id, vector, allowed.as_ref(), most)?
        }
        _ => Vec::new(),
    };
    let words = match match_expression(&query.text) {
        Some(words) if query.text_weight > 0.0 => matched(transaction, id, &words, allowed.as_ref(), most)?,
        _ => Vec::new(),
    };
    let similarities: HashMap<i64, f32> = nearest.iter().copied().collect();
    let nearest: Vec<i64> = nearest.into_iter().map(|(chunk, _)| chunk).collect();
    let mut lists = Vec::new();
    if query.vector.is_some() && query.vector_weight > 0.0 {
        lists.push((query.vector_weight, nearest.as_slice()));
    }
    if !words.is_empty() {
        lists.push((query.text_weight, words.as_slice()));
    }
    let sql = "SELECT chunks.file, chunks.ordinal, chunks.text, files.name, vector_store_files.attributes FROM chunks \
               JOIN vector_store_files ON vector_store_files.vector_store = chunks.vector_store \
               AND vector_store_files.id = chunks.file JOIN files ON files.id = chunks.file WHERE chunks.seq = ?";
    let mut statement = transaction.prepare_cached(sql)?;
    let best =
        fuse(&lists).into_iter().take(query.limit).filter(|(_, score)| *score >= query.score_threshold);
    best.map(|(chunk, score)| {
        let similarity = similarities.get(&chunk).copied();
        Ok(statement.query_row([chunk], |row| hit(row, score, similarity))?)
    })
    .collect()
}

fn hit(row: &Row<'_>, score: f64, similarity: Option<f32>) -> rusqlite::Result<Hit> {
    Ok(Hit {
        file: row.get(0)?,
        ordinal: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        text: row.get(2)?,
        file_name: row.get(3)?,
        attributes: super::attributes(row.get(4)?),
        score,
        similarity,
    })
}

/// The files that a filter means.
fn matching(transaction: &Transaction<'_>, id: &str, filter: &Filter) -> Result<HashSet<String>> {
    let mut statement =
        transaction.prepare_cached("SELECT id, attributes FROM vector_store_files WHERE vector_store = ?")?;
    let mut rows = statement.query([id])?;
    let mut files = HashSet::new();
    while let Some(row) = rows.next()? {
        if filter.matches(&super::attributes(row.get::<_, Value>(1)?)) {
            files.insert(row.get(0)?);
        }
    }
    Ok(files)
}

/// The chunks nearest to a vector, nearest first: a scan of all of them, with a heap of the best.
fn nearest(
    transaction: &Transaction<'_>,
    id: &str,
    vector: &[f32],
    allowed: Option<&HashSet<String>>,
    most: usize,
) -> Result<Vec<(i64, f32)>> {
    let query = vectors::unit(vector)?;
    let mut statement =
        transaction.prepare_cached("SELECT seq, file, scale, vector FROM chunks WHERE vector_store = ?")?;
    let mut rows = statement.query([id])?;
    let mut best = BinaryHeap::with_capacity(most + 1);
    while let Some(row) = rows.next()? {
        let sql_error = |error: rusqlite::types::FromSqlError| StoreError::Database(error.into());
        if let Some(allowed) = allowed
            && !allowed.contains(row.get_ref(1)?.as_str().map_err(sql_error)?)
        {
            continue;
        }
        let bytes = row.get_ref(3)?.as_blob().map_err(sql_error)?;
        if bytes.len() != query.len() {
            let reason = format!("it has {} dimensions, and the store's have {}", query.len(), bytes.len());
            return Err(StoreError::invalid("the query's vector", reason));
        }
        let similarity = vectors::similarity(&query, row.get::<_, f64>(2)? as f32, bytes);
        best.push(Reverse(Ranked { similarity, older: Reverse(row.get(0)?) }));
        if best.len() > most {
            best.pop();
        }
    }
    let mut best: Vec<Ranked> = best.into_iter().map(|Reverse(ranked)| ranked).collect();
    best.sort_unstable_by(|left, right| right.cmp(left));
    Ok(best.into_iter().map(|ranked| (ranked.older.0, ranked.similarity)).collect())
}

/// Orders by nearness, and then by age: two chunks with one text have an order, always the same.
struct Ranked {
    similarity: f32,
    older: Reverse<i64>,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        self.similarity.total_cmp(&other.similarity).then(self.older.cmp(&other.older))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// The chunks whose words match best, best first.
fn matched(
    transaction: &Transaction<'_>,
    id: &str,
    words: &str,
    allowed: Option<&HashSet<String>>,
    most: usize,
) -> Result<Vec<i64>> {
    let sql = "SELECT chunks.seq, chunks.file FROM chunks_text JOIN chunks ON chunks.seq = chunks_text.rowid \
               WHERE chunks_text MATCH ? AND chunks.vector_store = ? ORDER BY bm25(chunks_text), chunks.seq";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([words, id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if allowed.is_none_or(|allowed| row.get::<_, String>(1).is_ok_and(|file| allowed.contains(&file))) {
            found.push(row.get(0)?);
        }
        if found.len() == most {
            break;
        }
    }
    Ok(found)
}

/// The words of a text as a query of FTS5 that any of them satisfies; `None` if it has no words. Each is quoted, so that
/// nothing in it is an operator.
fn match_expression(text: &str) -> Option<String> {
    let mut seen = HashSet::new();
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<String> = words
        .filter(|word| seen.insert(word.to_lowercase()))
        .take(MOST_WORDS)
        .map(|word| format!("\"{word}\""))
        .collect();
    (!words.is_empty()).then(|| words.join(" OR "))
}

/// Reciprocal rank fusion: lists of chunks, best first, each with its weight, become one, best first, with scores of which
/// 1 is what a chunk gets that is first in every list. A chunk counts once in a list, at its best rank; of chunks with
/// one score the one with the smaller number is first. Lists whose weight is not positive are not looked at.
#[must_use]
pub fn fuse(lists: &[(f64, &[i64])]) -> Vec<(i64, f64)> {
    let lists = || lists.iter().filter(|(weight, _)| *weight > 0.0 && weight.is_finite());
    // Weights are taken relative to the largest, so that their sum is finite.
    let largest = lists().map(|(weight, _)| *weight).fold(0.0, f64::max);
    let total: f64 = lists().map(|(weight, _)| weight / largest).sum();
    let mut scores: HashMap<i64, f64> = HashMap::new();
    for (weight, list) in lists() {
        let mut seen = HashSet::new();
        for (rank, chunk) in list.iter().filter(|chunk| seen.insert(**chunk)).enumerate() {
            let share = weight / largest / total;
            *scores.entry(*chunk).or_default() +=
                share * (RANK_OFFSET + 1.0) / (RANK_OFFSET + 1.0 + rank as f64);
        }
    }
    let mut fused: Vec<(i64, f64)> =
        scores.into_iter().map(|(chunk, score)| (chunk, score.min(1.0))).collect();
    fused.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    fused
}
