//! OpenAI's API.

mod models;

use crate::route::{Family, Route, Scope};
use models::{Model, ModelList};

const OPENAI: Family = Family::OpenAi;

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::get("/v1/models", OPENAI, Scope::Models, "Lists the models.", |call| Box::pin(models::list(call)))
        .gives(ModelList::OBJECT),
    Route::get("/v1/models/{*model}", OPENAI, Scope::Models, "Describes a model.", |call| {
        Box::pin(models::show(call))
    })
    .gives(Model::OBJECT),
];
