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
    crate::anthropic::ROUTES,
    crate::ollama::ROUTES,
    crate::llama_cpp::ROUTES,
    crate::operations::ROUTES,
];
