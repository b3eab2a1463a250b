//! The tool `file_search`: what is looked for where, and the item that tells of it.
//!
//! It is not the model that decides to search: where the tool is given, the last question is looked up before the answer
//! is written. Small models decide badly, and a search costs less than a wrong answer.

use crate::error::{ApiError, ApiResult};
use crate::generate::Tally;
use crate::resources::vector_stores::{Ranking, search};
use crate::resources::{fields, items};
use crate::route::Call;
use alti_store::{Filter, Hit};
use serde_json::{Value, json};

/// Passages that a model is told, if a request does not say how many. OpenAI's 20 would fill small contexts.
const PASSAGES: usize = 5;

/// A search in files.
#[derive(Clone, Debug)]
pub(super) struct FileSearch {
    stores: Vec<String>,
    limit: usize,
    ranking: Ranking,
    filter: Option<Filter>,
}

impl FileSearch {
    /// Reads the tool.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(tool: &Value, path: &str) -> ApiResult<FileSearch> {
        let field = |name: &str, message: &str| {
            Err(ApiError::field(format!("{path}.{name}"), format!("`{path}.{name}` {message}")))
        };
        let ids = tool["vector_store_ids"].as_array().filter(|ids| !ids.is_empty());
        let ids: Option<Vec<String>> =
            ids.and_then(|ids| ids.iter().map(|id| id.as_str().map(str::to_owned)).collect());
        let Some(stores) = ids else {
            return field("vector_store_ids", "must be a list of ids of vector stores");
        };
        if stores.len() > 16 {
            return field("vector_store_ids", "names more than 16 vector stores");
        }
        let limit = match &tool["max_num_results"] {
            Value::Null => PASSAGES,
            value => match value.as_u64().filter(|limit| (1..=50).contains(limit)) {
                Some(limit) => limit as usize,
                None => return field("max_num_results", "must be a whole number from 1 to 50"),
            },
        };
        let filter = match &tool["filters"] {
            Value::Null => None,
            filter => {
                fields::check_depth(filter, "filters")?;
                Some(
                    Filter::parse(filter)
                        .map_err(|error| ApiError::from(error).param(format!("{path}.filters")))?,
                )
            }
        };
        let ranking = Ranking::read(&tool["ranking_options"], &format!("{path}.ranking_options"))?;
        Ok(FileSearch { stores, limit, ranking, filter })
    }

    /// Looks for what the last question of a conversation needs: the query and what was found, best first.
    ///
    /// # Errors
    /// When a vector store is not there.
    pub(super) async fn run(
        &self,
        call: &Call,
        tally: &Tally,
        said: &[Value],
    ) -> ApiResult<(Vec<String>, Vec<Hit>)> {
        let Some(question) = items::last_question(said) else { return Ok((Vec::new(), Vec::new())) };
        let mut hits = Vec::new();
        for store in &self.stores {
            let (filter, tally) = (self.filter.clone(), Some(tally));
            let found = search(call, tally, store, &question, self.limit, &self.ranking, filter).await;
            hits.extend(found.map_err(|error| error.param("tools"))?);
        }
        hits.sort_by(|left: &Hit, right: &Hit| right.score.total_cmp(&left.score));
        hits.truncate(self.limit);
        Ok((vec![question], hits))
    }
}

/// A response, or an item of one, without what searches found: only those are told who ask for it.
pub(super) fn without_results(mut told: Value) -> Value {
    let hide = |item: &mut Value| {
        if item["type"] == "file_search_call" {
            item["results"] = Value::Null;
        }
    };
    hide(&mut told);
    let output = told.get_mut("output").and_then(Value::as_array_mut);
    output.into_iter().flatten().for_each(hide);
    told
}

/// The results of a search, as they are told to whoever asks for them.
pub(super) fn results(hits: &[Hit]) -> Vec<Value> {
    let result = |hit: &Hit| {
        json!({
            "file_id": hit.file,
            "filename": hit.file_name,
            "score": hit.score,
            "text": hit.text,
            "attributes": hit.attributes,
        })
    };
    hits.iter().map(result).collect()
}
