//! Ids and secrets: random, with the prefixes that clients know.

use crate::error::{Result, StoreError};
use std::fmt::Write as _;

/// A new id: the prefix and 48 hexadecimal digits that nobody can guess.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_id(prefix: &str) -> Result<String> {
    let mut bytes = [0u8; 24];
    random(&mut bytes)?;
    Ok(format!("{prefix}{}", hexadecimal(&bytes)))
}

/// Fills with random bytes.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| StoreError::invalid("random numbers", format!("the system has none: {error}")))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap_or_else(|_| unreachable!("writing to a string cannot fail"));
        text
    })
}
