#![forbid(unsafe_code)]
//! models
