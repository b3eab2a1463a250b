#![deny(unsafe_code)]
//! formats
