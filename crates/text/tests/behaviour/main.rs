//! What a user of this crate can rely on, in one test binary that shares the committed vocabularies.

mod common;
mod detokenizer;
mod differential;
mod robustness;
mod template_limits;
mod templates;
mod tools;
mod vectors;
