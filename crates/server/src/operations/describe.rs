//! What there is, out of the route table: OpenAPI for programs, Markdown for the documentation, HTML for people.

use crate::generate::DEFAULTS;
use crate::route::{Family, Route, Scope};
use crate::state::AppState;
use crate::wire::{Object, Support};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// `/openapi.json`.
pub fn openapi() -> Value {
    let mut paths = Map::new();
    for route in crate::routes::table() {
        let operations = paths.entry(route.openapi_path()).or_insert_with(|| json!({}));
        operations[route.verb.name().to_ascii_lowercase()] = operation(route);
    }
    let taken = objects(|route| [route.request, None]);
    let is_taken = |object: &Object| taken.iter().any(|it| it.name == object.name);
    let schemas = objects(|route| [route.request, route.response]).into_iter();
    let schemas = schemas.map(|object| (object.name.to_owned(), object.schema(is_taken(object))));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Altiplano",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The APIs of OpenAI, Anthropic, Ollama and llama.cpp over one engine.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": Map::from_iter(schemas),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// Every object that what is `named` of each route is or refers to.
fn objects(named: fn(&Route) -> [Option<&'static Object>; 2]) -> Vec<&'static Object> {
    let mut objects = Vec::new();
    for route in crate::routes::table() {
        named(route).into_iter().flatten().for_each(|object| object.collect(&mut objects));
    }
    objects
}

/// Routes that answer with a list in the place of their object where several were asked for, or another form was.
const OR_A_LIST: [&str; 7] =
    ["/completion", "/completions", "/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking"];
/// Routes whose body may be left out.
const BODY_IF_ANY: [&str; 1] = ["/slots/{slot}"];

/// The schema of a route's answer that is JSON.
fn answer(route: &Route, object: &Object) -> Value {
    let mut shapes = vec![reference(object)];
    if route.request.is_some_and(|request| request.has("response_fields")) {
        shapes.push(json!({ "type": "object", "description": "The fields that `response_fields` names." }));
    }
    if OR_A_LIST.contains(&route.path) {
        shapes.push(json!({ "type": "array", "items": { "type": "object" } }));
    }
    match shapes.len() {
        1 => shapes.remove(0),
        _ => json!({ "anyOf": shapes }),
    }
}

fn reference(object: &Object) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", object.name) })
}

fn operation(route: &Route) -> Value {
    let mut content = Map::new();
    if let Some(object) = route.response {
        content.insert("application/json".into(), json!({ "schema": answer(route, object) }));
    }
    if let Some(stream) = route.streams {
        // What does not stream is JSON, whether its object has a name here or not.
        content.entry("application/json").or_insert_with(|| json!({ "schema": { "type": "object" } }));
        // OpenAPI 3.1 has no words for what the events of a stream are.
        content.insert(stream.content_type().into(), json!({}));
    }
    let parameters: Vec<Value> = route
        .path_parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .chain(super::queries::parameters(route))
        .collect();
    let mut operation = json!({
        "summary": route.summary,
        "tags": [route.family.name()],
        "parameters": parameters,
        "responses": {
            "200": { "description": "Done.", "content": content },
            "default": { "description": "The API's own error object." },
        },
    });
    if let Some(object) = route.request {
        let schema = match route.takes_list {
            true => json!({ "type": "array", "items": reference(object) }),
            false => reference(object),
        };
        let content = json!({ "application/json": { "schema": schema } });
        let required = !BODY_IF_ANY.contains(&route.path);
        operation["requestBody"] = json!({ "required": required, "content": content });
    }
    if let Some(form) = route.form {
        operation["requestBody"] =
            json!({ "required": true, "content": { "multipart/form-data": { "schema": form() } } });
    }
    if route.scope != Scope::Open {
        // A server without keys answers its own machine without one.
        operation["security"] = json!([{ "key": [route.scope.name()] }, {}]);
    }
    operation
}

/// `docs/api.md`: every route, and every field of what it takes and gives.
pub fn documentation() -> String {
    let mut text = String::from(
        "# The APIs\n\nWritten by `cargo run -p alti-server --example api_docs > docs/api.md` from the server's route table: \
         do not edit.\n\n\
         Fields that are not listed are ignored, and named in the log once. `null` is the same as leaving a field out, \
         but where a field says what it does. \
         A field of the wrong type is answered with status 400 and the API's own error object, which names the field.\n",
    );
    text.push_str(
        "\nWhere a request leaves a sampler setting out, a named model's parameters (`PARAMETER` of a Modelfile) are taken; \
         then what the model's own files say (`generation_config.json`, `general.sampling.*` in GGUF); then what the API's \
         documentation says:\n\n| API | settings |\n|---|---|\n",
    );
    for row in DEFAULTS.iter().filter(|row| row.family != Family::Operations) {
        let settings: Vec<String> =
            row.settings.iter().map(|(name, value)| format!("`{name}` {value}")).collect();
        let _cannot_fail = writeln!(text, "| {} | {} |", row.family.name(), settings.join(", "));
    }
    let table = crate::routes::table();
    for family in [Family::OpenAi, Family::Anthropic, Family::Ollama, Family::LlamaCpp, Family::Operations] {
        let _cannot_fail = write!(
            text,
            "\n## {}\n\n| route | does | scope | takes | gives |\n|---|---|---|---|---|\n",
            family.name()
        );
        for route in table.iter().filter(|route| route.family == family) {
            let link = |object: Option<&Object>| {
                object.map_or_else(
                    || "-".into(),
                    |it| format!("[{}](#{})", it.name, it.name.to_ascii_lowercase()),
                )
            };
            let _cannot_fail = writeln!(
                text,
                "| `{} {}` | {} | {} | {}{} | {} |",
                route.verb.name(),
                route.openapi_path(),
                route.summary,
                route.scope.name(),
                if route.takes_list { "list of " } else { "" },
                link(route.request),
                link(route.response),
            );
        }
    }
    text.push_str("\n# Objects\n");
    for object in objects(|route| [route.request, route.response]) {
        let about = object.about.trim();
        let _cannot_fail =
            write!(text, "\n## {}\n\n{about}\n\n| field | type | | for |\n|---|---|---|---|\n", object.name);
        for field in object.fields {
            let support = match field.support {
                Support::Required => "required",
                Support::Optional => "",
                Support::Ignored => "no effect",
            };
            let about = field.about.trim().replace('|', "\\|");
            let _cannot_fail = writeln!(
                text,
                "| `{}` | {} | {support} | {about} |",
                field.name(),
                type_name(&(field.schema)()).replace('|', "\\|")
            );
        }
    }
    text
}

/// A JSON schema in a word.
fn type_name(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_ascii_lowercase());
    }
    if let Some(choices) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        return choices.iter().map(type_name).collect::<Vec<_>>().join(" | ");
    }
    match schema["type"].as_str() {
        Some("array") => match type_name(&schema["items"]) {
            several if several.contains(" | ") => format!("list of ({several})"),
            one => format!("list of {one}"),
        },
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
     content=\"width=device-width\"><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
     padding:0 1rem}code{background:#8882;padding:.1em .3em;border-radius:.2em}table{border-collapse:collapse}\
     td,th{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}:root{color-scheme:light dark}</style>";

/// The page at `/docs`.
pub(super) fn page() -> String {
    let mut page = format!(
        "{STYLE}<title>Altiplano: the APIs</title><h1>The APIs</h1><p>For programs: <a href=\"/openapi.json\">openapi.json</a>.</p>"
    );
    let table = crate::routes::table();
    for family in [Family::OpenAi, Family::Anthropic, Family::Ollama, Family::LlamaCpp, Family::Operations] {
        let _cannot_fail = write!(page, "<h2>{}</h2><table>", family.name());
        for route in table.iter().filter(|route| route.family == family) {
            let _cannot_fail = write!(
                page,
                "<tr><td><code>{} {}</code><td>{}",
                route.verb.name(),
                escaped(&route.openapi_path()),
                escaped(route.summary)
            );
            if let Some(object) = route.request {
                page.push_str("<details><summary>fields</summary><table>");
                for field in object.fields {
                    let name = type_name(&(field.schema)());
                    let name = name.split(['[', ']']).next().filter(|it| !it.is_empty()).unwrap_or("object");
                    let _cannot_fail = write!(
                        page,
                        "<tr><td><code>{}</code><td>{}<td>{}",
                        field.name(),
                        escaped(name),
                        escaped(field.about.trim())
                    );
                }
                page.push_str("</table></details>");
            }
        }
        page.push_str("</table>");
    }
    page
}

/// The page at `/`.
pub(super) fn status_page(state: &AppState) -> String {
    let mut page = format!(
        "{STYLE}<title>Altiplano</title><h1>Altiplano</h1><p>This is an AI service. Give an app this server's address \
         with <code>/v1</code> behind it (OpenAI), or as it is (Anthropic, Ollama). <a href=\"/docs\">What there \
         is</a>, <a href=\"/metrics\">numbers</a>.</p>"
    );
    let loaded = state.models().loaded();
    let state = if state.is_draining() { "going down" } else { "running" };
    let _cannot_fail = write!(
        page,
        "<p>Version {}, {state}, {} models loaded.</p>",
        env!("CARGO_PKG_VERSION"),
        loaded.len()
    );
    // Apps look for these words at an address before they take it for one of Ollama's.
    page.push_str("<!-- Ollama is running -->");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once() {
        let table = crate::routes::table();
        for (index, route) in table.iter().enumerate() {
            assert!(!route.summary.is_empty());
            let twins =
                table.iter().skip(index + 1).filter(|it| it.path == route.path && it.verb == route.verb);
            assert_eq!(twins.count(), 0, "{} {} is there twice", route.verb.name(), route.path);
            let operation = &openapi()["paths"][route.openapi_path()][route.verb.name().to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary);
        }
    }

    /// Found by a fuzzer of descriptions: answers of a content type that was not described, events described as texts.
    #[test]
    fn what_can_stream_is_json_too_and_an_upload_is_a_form() {
        let paths = &openapi()["paths"];
        for route in crate::routes::table().iter().filter(|route| route.streams.is_some()) {
            let operation = &paths[route.openapi_path()][route.verb.name().to_ascii_lowercase()];
            let content = operation["responses"]["200"]["content"].as_object().unwrap();
            assert_eq!(content.len(), 2, "{}", route.path);
            assert!(content["application/json"]["schema"].is_object(), "{}", route.path);
        }
        let form = &paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"];
        assert_eq!(form["required"], json!(["file", "purpose"]));
    }

    #[test]
    fn what_may_be_null_left_out_or_of_several_shapes_is_described_so() {
        let description = openapi();
        let schemas = &description["components"]["schemas"];
        let request = &schemas["LlamaCompletionRequest"]["properties"];
        assert_eq!(request["stream"]["anyOf"], json!([{ "type": "boolean" }, { "type": "null" }]));
        assert!(request["prompt"]["anyOf"].as_array().unwrap().iter().all(|it| it["type"] != "null"));
        assert_eq!(request["n_probs"]["anyOf"][0]["maximum"], u32::MAX);
        // What is given has no nulls in the place of fields that are left out.
        assert!(schemas["LlamaCompletion"]["properties"]["index"]["anyOf"].is_null());
        let paths = &description["paths"];
        let completion = &paths["/completion"]["post"]["responses"]["200"]["content"]["application/json"];
        assert_eq!(completion["schema"]["anyOf"][2]["type"], "array");
        let slot = &paths["/slots/{slot}"]["post"];
        assert_eq!(
            (&slot["parameters"][1]["name"], &slot["parameters"][1]["in"]),
            (&json!("action"), &json!("query"))
        );
        assert_eq!(slot["requestBody"]["required"], false);
        let scales = &paths["/lora-adapters"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(scales["items"]["$ref"], "#/components/schemas/AdapterScale");
        let list = paths["/v1/vector_stores"]["get"]["parameters"].as_array().unwrap();
        let names: Vec<&str> = list.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["limit", "order", "after", "before"]);
        assert_eq!(paths["/slots"]["get"]["security"], json!([{ "key": ["metrics"] }, {}]));
        for path in OR_A_LIST.iter().chain(&BODY_IF_ANY) {
            assert!(paths[path].is_object(), "{path}");
        }
    }

    #[test]
    fn lists_of_several_types_are_told_from_several_types() {
        let choice = json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] });
        let list = json!({ "type": "array", "items": choice });
        let schema = json!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, list, choice] });
        assert_eq!(type_name(&schema), "list of string | list of (string | integer) | string | integer");
    }

    #[test]
    fn the_documentation_is_that_of_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
        let written = std::fs::read_to_string(path).unwrap();
        let command = "cargo run -p alti-server --example api_docs > docs/api.md";
        assert!(written == documentation(), "docs/api.md is not current: {command}");
    }

    #[test]
    fn references_lead_somewhere_and_names_are_of_one_object() {
        let description = openapi();
        let text = description.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(description["components"]["schemas"][name].is_object(), "{name}");
        }
        let mut by_name = std::collections::BTreeMap::new();
        for route in crate::routes::table() {
            for object in route.request.into_iter().chain(route.response) {
                let known = by_name.entry(object.name).or_insert(object.about);
                assert_eq!(*known, object.about, "two objects are called {}", object.name);
            }
        }
    }
}
