#![forbid(unsafe_code)]
//! text
