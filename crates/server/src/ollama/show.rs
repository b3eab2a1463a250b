//! `POST /api/show`: all that is known of a model.

use super::manage::{created, name};
use super::modelfile;
use super::shared::details;
use super::thinking::thinks;
use crate::error::ApiResult;
use crate::models::{ModelCard, ModelFacts};
use crate::respond;
use crate::route::Call;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};

crate::wire! {
    /// Which model.
    pub struct ShowRequest {
        optional {
            /// The model's name.
            model: String,
            /// The older name of `model`.
            name: String,
            /// Whether long values are given, too.
            verbose: bool,
        }
    }
}

/// How far Ollama moves a parameter's value to the right.
const NAME_WIDTH: usize = 30;

/// `POST /api/show`. It tells what is known without loading the model.
pub(super) async fn show(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (ShowRequest, _) = call.json(|_| false).await?;
    let models = call.state.models();
    let (facts, alias) = models.facts(&name(request.model, request.name)?).await?;
    let alias = alias.unwrap_or_default();
    let base = if alias.from.is_empty() { facts.name.clone() } else { alias.from.clone() };
    let card = models.card(&base, &facts.digest).await?;
    let template = alias.template.as_ref().or(card.template.as_ref());
    let parameters =
        modelfile::parameters(&alias).map(|(name, value)| format!("{name:<NAME_WIDTH$} {value}"));
    let messages = alias.messages.iter();
    let messages = messages.map(|it| json!({ "role": it.role, "content": modelfile::said(it) }));
    let mut told = json!({
        "modelfile": modelfile::write(&base, &alias),
        "parameters": parameters.collect::<Vec<_>>().join("\n"),
        "template": template.cloned().unwrap_or_default(),
        "system": alias.system.clone().unwrap_or_default(),
        "license": alias.license.clone().or(facts.license.clone()).unwrap_or_default(),
        "details": details(&facts, &alias.from),
        "model_info": info(&facts, &base, &card),
        "capabilities": capabilities(template.map(String::as_str), &card),
        "modified_at": created(&facts),
    });
    if !alias.messages.is_empty() {
        told["messages"] = messages.collect();
    }
    Ok(respond::json(&told))
}

/// The model's numbers, under the names that GGUF files have for them.
fn info(facts: &ModelFacts, base: &str, card: &ModelCard) -> Map<String, Value> {
    let mut info = Map::new();
    info.insert("general.architecture".into(), json!(facts.architecture));
    info.insert("general.basename".into(), json!(base));
    if let Some(parameters) = facts.parameters {
        info.insert("general.parameter_count".into(), json!(parameters));
    }
    info.extend(card.numbers.iter().map(|(name, number)| (name.clone(), json!(number))));
    if let Some(context) = facts.context {
        // What it is served with goes before what it was trained with.
        info.insert(format!("{}.context_length", facts.architecture), json!(context));
    }
    info
}

/// What apps can ask of the model.
fn capabilities(template: Option<&str>, card: &ModelCard) -> Vec<&'static str> {
    let all =
        [("completion", true), ("tools", true), ("insert", card.fills_in), ("thinking", thinks(template))];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_ggufs_names_and_abilities_are_those_there_are() {
        let facts = ModelFacts {
            architecture: "llama".into(),
            parameters: Some(7),
            context: Some(2048),
            ..ModelFacts::default()
        };
        let card = ModelCard {
            template: None,
            fills_in: true,
            numbers: vec![("llama.block_count".into(), 30), ("llama.context_length".into(), 8192)],
        };
        let expected = json!({
            "general.architecture": "llama",
            "general.basename": "base",
            "general.parameter_count": 7,
            "llama.block_count": 30,
            "llama.context_length": 2048,
        });
        assert_eq!(Value::Object(info(&facts, "base", &card)), expected);
        assert_eq!(capabilities(None, &card), ["completion", "tools", "insert"]);
        assert_eq!(
            capabilities(Some("{{ '<think>' }}"), &ModelCard::default()),
            ["completion", "tools", "thinking"]
        );
    }
}
