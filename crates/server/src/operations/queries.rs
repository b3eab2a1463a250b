//! What routes read of a request's query: their handlers read it value by value, and this table says so to others.

use crate::route::{Route, Verb};
use serde_json::{Value, json};

/// A value of a query.
struct Parameter {
    name: &'static str,
    about: &'static str,
    schema: fn() -> Value,
    required: bool,
}

const fn optional(name: &'static str, about: &'static str, schema: fn() -> Value) -> Parameter {
    Parameter { name, about, schema, required: false }
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

/// The values that each route reads.
const QUERIES: &[(Verb, &str, &[&[Parameter]])] = &[
    (Verb::Get, "/v1/chat/completions", &[PAGE, &[optional("model", "Only answers of this model.", text)]]),
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
            optional("stream", "Whether it is told as events.", || json!({ "type": "boolean" })),
            optional(
                "starting_after",
                "Only events behind the one with this number.",
                || json!({ "type": "integer", "minimum": 0 }),
            ),
        ]],
    ),
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
            optional("key", "Only this key's.", text),
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
        }]],
    ),
    (Verb::Get, "/lora-adapters", &[&[MODEL]]),
    (Verb::Post, "/lora-adapters", &[&[MODEL]]),
];

/// The values that a route reads of a query, as OpenAPI describes them.
pub(super) fn parameters(route: &Route) -> impl Iterator<Item = Value> {
    let own = QUERIES.iter().filter(move |(verb, path, _)| *verb == route.verb && *path == route.path);
    own.flat_map(|(_, _, groups)| groups.iter().copied().flatten()).map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "required": parameter.required,
            "schema": (parameter.schema)(),
        })
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
}
