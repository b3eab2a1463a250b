//! `ranking_options`: how nearness of meaning and words are weighed.

use crate::error::{ApiError, ApiResult};
use serde_json::Value;

/// How hits are ranked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::resources) struct Ranking {
    pub(super) vector_weight: f64,
    pub(super) text_weight: f64,
    pub(super) score_threshold: f64,
}

impl Ranking {
    /// Reads the options; `null` is none.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(in crate::resources) fn read(value: &Value, path: &str) -> ApiResult<Ranking> {
        let number = |value: &Value, name: &str, default: f64, most: f64| match value {
            Value::Null => Ok(default),
            value => value.as_f64().filter(|number| (0.0..=most).contains(number)).ok_or_else(|| {
                let path = format!("{path}.{name}");
                ApiError::field(&path, format!("`{path}` must be a number from 0 to {most}"))
            }),
        };
        if !matches!(value, Value::Null | Value::Object(_)) {
            return Err(ApiError::field(path, format!("`{path}` must be an object")));
        }
        let hybrid = &value["hybrid_search"];
        let ranking = Ranking {
            vector_weight: number(&hybrid["embedding_weight"], "hybrid_search.embedding_weight", 1.0, 1e6)?,
            text_weight: number(&hybrid["text_weight"], "hybrid_search.text_weight", 1.0, 1e6)?,
            score_threshold: number(&value["score_threshold"], "score_threshold", 0.0, 1.0)?,
        };
        if ranking.vector_weight + ranking.text_weight == 0.0 {
            let path = format!("{path}.hybrid_search");
            return Err(ApiError::field(&path, format!("`{path}` gives nothing any weight")));
        }
        Ok(ranking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let read = |value: Value| Ranking::read(&value, "ranking_options");
        assert_eq!(read(Value::Null).unwrap().vector_weight, 1.0);
        let own = read(
            json!({ "score_threshold": 0.5, "hybrid_search": { "embedding_weight": 0, "text_weight": 2 } }),
        );
        let expected = Ranking { vector_weight: 0.0, text_weight: 2.0, score_threshold: 0.5 };
        assert_eq!(own.unwrap(), expected);
        let nothing = json!({ "hybrid_search": { "embedding_weight": 0, "text_weight": 0 } });
        for wrong in [json!([]), json!({ "score_threshold": 2 }), json!({ "score_threshold": "x" }), nothing]
        {
            assert!(read(wrong).is_err());
        }
    }
}
