//! Names of models, as requests spell them.

use crate::error::{ApiError, ApiResult, excerpt};

/// What Ollama's apps put behind names that have no tag.
const LATEST: &str = ":latest";

/// The name without the tag that says nothing: a model is known by this one, however it was asked for.
pub(crate) fn untagged(name: &str) -> &str {
    name.trim_end_matches(LATEST)
}

/// The name as Ollama lists it: always with a tag.
pub(crate) fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") }
}

/// Whether this can be a model's name. Names come from requests and lead to files: they are short, and of one line.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control)
}

/// Checks a name that is looked for.
///
/// # Errors
/// When no model can have it.
pub(super) fn check_name(name: &str) -> ApiResult<()> {
    if is_name(name) { Ok(()) } else { Err(ApiError::model_not_found(name)) }
}

/// Checks a name that is to be given: spaces are what apps cannot ask for it with.
///
/// # Errors
/// When no model can have it.
pub(super) fn check_new_name(name: &str) -> ApiResult<()> {
    if is_name(name) && !name.contains(char::is_whitespace) && !name.starts_with([':', '/']) {
        return Ok(());
    }
    let message = format!(
        "`{}` cannot be a model's name: it needs 1 to 256 characters, no spaces, and no `:` or `/` in front",
        excerpt(name)
    );
    Err(ApiError::field("model", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_that_says_nothing_comes_and_goes() {
        for (plain, listed) in [
            ("mario", "mario:latest"),
            ("owner/other", "owner/other:latest"),
            ("owner/other:Q4_0", "owner/other:Q4_0"),
        ] {
            assert_eq!((untagged(plain), tagged(plain).as_str()), (plain, listed));
            assert_eq!(untagged(listed), plain);
        }
        assert_eq!(tagged("mario:latest"), "mario:latest");
        assert_eq!(
            untagged("mario:latest:latest"),
            "mario",
            "names that lead on are looked for untagged, too"
        );
    }

    #[test]
    fn names_that_are_given_can_be_asked_for() {
        for wrong in ["", " ", "a b", ":latest", "/etc", "a\nb", &"x".repeat(257)] {
            assert!(check_new_name(wrong).is_err(), "{wrong:?}");
        }
        check_new_name("owner/mario:v2").unwrap();
    }
}
