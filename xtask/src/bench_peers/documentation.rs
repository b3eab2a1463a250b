//! The part of a documentation page that a command writes: what stands between two markers.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

/// Writes the block of this name of a page.
///
/// # Errors
/// The page cannot be read or written, or lacks a marker.
pub fn write_block(page: &Path, name: &str, content: &str) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = replace_block(&text, name, content).with_context(|| format!("in {}", page.display()))?;
    fs::write(page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// `page` with `content` between the markers that carry `name`, in place of what was there.
///
/// # Errors
/// The page lacks a marker.
fn replace_block(page: &str, name: &str, content: &str) -> Result<String> {
    let [begin, end] = [format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->")];
    let missing = |marker: &str| format!("the page has no line `{marker}`");
    let (before, rest) = page.split_once(&begin).with_context(|| missing(&begin))?;
    let (_, after) = rest.split_once(&end).with_context(|| missing(&end))?;
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced_again_and_again() {
        let page = "# Page\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n";
        let once = replace_block(page, "table", "new\n").unwrap();
        assert_eq!(once, "# Page\n<!-- table: begin -->\n\nnew\n\n<!-- table: end -->\nafter\n");
        assert_eq!(replace_block(&once, "table", "new").unwrap(), once);
    }

    #[test]
    fn a_missing_marker_is_named() {
        let error = replace_block("<!-- table: begin -->", "table", "").unwrap_err();
        assert!(error.to_string().contains("<!-- table: end -->"), "{error}");
    }
}
