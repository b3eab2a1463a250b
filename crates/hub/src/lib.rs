#![forbid(unsafe_code)]
//! hub
