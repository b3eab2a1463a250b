//! What routes read of a request's query. Handlers get no other values than those that are in this table: one without a
//! row is of no effect, which a test of it notices.

use crate::route::{Route, Verb};
use serde_json::{Value, json};

/// A value of a query.
struct Parameter {
    name: &'static str,
    about: &'static str,
    schema: fn() -> Value,
    required: bool,
    /// How OpenAPI calls the way it is written, where that is not as always.
    style: Option<&'static str>,
}

const fn optional(name: &'static str, about: &'static str, schema: fn() -> Value) -> Parameter {
    Parameter { name, about, schema, required: false, style: None }
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn day() -> Value {
    json!({ "type": "string", "format": "date" })
}

/// The part of a list that is wanted.
const PAGE: &[Parameter] = &[
    optional("limit", "Most entries.", || json!({ "type": "integer", "minimum": 1, "maximum": 100 })),
    optional(
        "order",
        "`asc` has the oldest first, `desc` the newest.",
        || json!({ "enum": ["asc", "desc"] }),
    ),
    optional("after", "Only what comes behind the entry with this id.", text),
    optional("before", "Only what comes in front of the entry with this id.", text),
];
const FILTER: Parameter = optional(
    "filter",
    "Only files in this state.",
    || json!({ "enum": ["in_progress", "completed", "cancelled", "failed"] }),
);
const MODEL: Parameter =
    optional("model", "The model's name; the server's default model where none is given.", text);

/// The part of the list of models that one of Anthropic's clients wants.
const MODELS: &[Parameter] = &[
    optional(
        "limit",
        "Most entries, for clients that send `anthropic-version`; others get all of them.",
        || json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
    ),
    optional("after_id", "For the same clients: only what comes behind the model with this id.", text),
    optional("before_id", "For the same clients: only what comes in front of the model with this id.", text),
];
const INCLUDE: Parameter = optional(
    "include",
    "What is told beside the rest: `file_search_call.results`. Anything else changes nothing.",
    || json!({ "type": "array", "items": { "type": "string" } }),
);
const METADATA: Parameter = Parameter {
    style: Some("deepObject"),
    ..optional(
        "metadata",
        "Only answers that have these metadata: `metadata[key]=value`.",
        || json!({ "type": "object", "additionalProperties": { "type": "string" } }),
    )
};

/// The values that each route reads.
const QUERIES: &[(Verb, &str, &[&[Parameter]])] = &[
    (Verb::Get, "/v1/models", &[MODELS]),
    (Verb::Get, "/models", &[MODELS]),
    (
        Verb::Get,
        "/v1/chat/completions",
        &[PAGE, &[optional("model", "Only answers of this model.", text), METADATA]],
    ),
    (Verb::Get, "/v1/chat/completions/{completion}/messages", &[PAGE]),
    (Verb::Get, "/v1/conversations/{conversation}/items", &[PAGE]),
    (
        Verb::Get,
        "/v1/files",
        &[
            &[optional(
                "limit",
                "Most entries.",
                || json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }),
            )],
            PAGE.split_at(1).1,
            &[optional("purpose", "Only files for this purpose.", text)],
        ],
    ),
    (Verb::Get, "/v1/batches", &[PAGE]),
    (
        Verb::Get,
        "/v1/responses/{response}",
        &[&[
            INCLUDE,
            optional("stream", "Whether it is told as events.", || json!({ "type": "boolean" })),
            optional(
                "starting_after",
                "Only events behind the one with this number.",
                || json!({ "type": "integer", "minimum": 0 }),
            ),
        ]],
    ),
    (Verb::Post, "/v1/responses/{response}/cancel", &[&[INCLUDE]]),
    (Verb::Get, "/v1/responses/{response}/input_items", &[PAGE]),
    (Verb::Get, "/v1/vector_stores", &[PAGE]),
    (Verb::Get, "/v1/vector_stores/{store}/files", &[PAGE, &[FILTER]]),
    (Verb::Get, "/v1/vector_stores/{store}/file_batches/{batch}/files", &[PAGE, &[FILTER]]),
    (
        Verb::Get,
        "/v1/usage",
        &[&[
            optional("from", "The first day.", day),
            optional("to", "The last day.", day),
            optional(
                "key",
                "Only this key's: its id, or its name, which stands for all keys that have or had it.",
                text,
            ),
            optional("model", "Only this model's.", text),
            optional("group", "What sums are made of: some of `day`, `key` and `model`, with commas.", text),
        ]],
    ),
    (Verb::Get, "/props", &[&[MODEL]]),
    (
        Verb::Get,
        "/slots",
        &[&[optional("fail_on_no_slot", "Anything: status 503 answers where no slot is idle.", text)]],
    ),
    (
        Verb::Post,
        "/slots/{slot}",
        &[&[Parameter {
            name: "action",
            about: "What is done.",
            schema: || json!({ "enum": ["save", "restore", "erase", "delete"] }),
            required: true,
            style: None,
        }]],
    ),
    (Verb::Get, "/lora-adapters", &[&[MODEL]]),
    (Verb::Post, "/lora-adapters", &[&[MODEL]]),
];

fn of(route: &Route) -> impl Iterator<Item = &'static Parameter> {
    let own = QUERIES.iter().filter(move |(verb, path, _)| *verb == route.verb && *path == route.path);
    own.flat_map(|(_, _, groups)| groups.iter().copied().flatten())
}

/// Whether a route reads the value of this name. Clients write lists and objects with brackets: `include[]`,
/// `metadata[key]`.
pub(crate) fn reads(route: &Route, name: &str) -> bool {
    let plain = name.split('[').next().unwrap_or(name);
    of(route).any(|parameter| parameter.name == plain)
}

/// The values that a route reads of a query, as OpenAPI describes them.
pub(super) fn parameters(route: &Route) -> impl Iterator<Item = Value> {
    of(route).map(|parameter| {
        let mut told = json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "required": parameter.required,
            "schema": (parameter.schema)(),
        });
        if let Some(style) = parameter.style {
            told["style"] = json!(style);
        }
        told
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_of_a_route_that_is_there() {
        for (verb, path, _) in QUERIES {
            let routes = crate::routes::table();
            assert!(routes.iter().any(|route| route.verb == *verb && route.path == *path), "{path}");
        }
    }

    #[test]
    fn no_route_has_two_rows_nor_two_values_of_a_name() {
        for route in crate::routes::table() {
            let mut names: Vec<&str> = of(route).map(|parameter| parameter.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", route.path);
        }
    }

    #[test]
    fn only_what_is_described_is_read() {
        let table = crate::routes::table();
        let route = |path: &str| {
            table.iter().find(|route| route.verb == Verb::Get && route.path == path).copied().unwrap()
        };
        for (path, read) in [
            ("/v1/models", ["limit", "after_id", "before_id"]),
            ("/models", ["limit", "after_id", "before_id"]),
            ("/v1/responses/{response}", ["include[]", "stream", "starting_after"]),
            ("/v1/chat/completions", ["metadata[topic]", "model", "after"]),
        ] {
            for name in read {
                assert!(reads(route(path), name), "{path}: {name}");
            }
            assert!(!reads(route(path), "unheard_of"), "{path}");
        }
        let described =
            parameters(route("/v1/chat/completions")).find(|it| it["name"] == "metadata").unwrap();
        assert_eq!(described["style"], "deepObject");
    }

    /// A handler asks for values by their names: each is in a row of some route.
    #[test]
    fn every_name_in_the_sources_is_described() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![sources];
        let mut asked = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let text = std::fs::read_to_string(path).unwrap();
                        let calls = text.split("query_value(\"").skip(1);
                        asked.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                    }
                }
            }
        }
        assert!(asked.iter().any(|name| name == "limit"), "no calls were found");
        for name in &asked {
            let described = QUERIES.iter().flat_map(|(_, _, groups)| groups.iter().copied().flatten());
            assert!(described.into_iter().any(|parameter| parameter.name == name), "{name} is in no row");
        }
    }
}
