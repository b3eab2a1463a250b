//! The route table: every route there is, from the modules that answer them.

use crate::route::Route;
use std::sync::LazyLock;

/// Every route.
pub fn table() -> &'static [&'static Route] {
    static TABLE: LazyLock<Vec<&'static Route>> =
        LazyLock::new(|| MODULES.iter().flat_map(|routes| routes.iter()).collect());
    &TABLE
}

/// The modules' parts of the table.
const MODULES: &[&[Route]] = &[
    crate::openai::ROUTES,
    crate::resources::chat_completions::ROUTES,
    crate::resources::responses::ROUTES,
    crate::resources::conversations::ROUTES,
    crate::resources::files::ROUTES,
    crate::resources::uploads::ROUTES,
    crate::resources::batches::ROUTES,
    crate::resources::vector_stores::ROUTES,
    crate::resources::moderations::ROUTES,
    crate::resources::usage::ROUTES,
    crate::anthropic::ROUTES,
    crate::ollama::ROUTES,
    crate::llama_cpp::ROUTES,
    crate::operations::ROUTES,
];
