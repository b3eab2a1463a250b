//! Answers on a screen of 100 columns: labelled rows that go on under themselves.

/// Columns that an answer takes at most.
const WIDTH: usize = 100;

/// Adds a row: its label in `column` columns, and its text, which goes on in the same place where it is too long.
pub fn row(text: &mut String, column: usize, label: &str, words: &str) {
    let mut line = format!("{label:column$}");
    let mut empty = true;
    for word in words.split(' ') {
        let wide = line.chars().count() + word.chars().count() + usize::from(!empty) > WIDTH;
        if wide && !empty {
            *text += line.trim_end();
            text.push('\n');
            line = " ".repeat(column);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    *text += line.trim_end();
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rows_go_on_under_themselves() {
        let mut text = String::new();
        row(&mut text, 8, "label", &"word ".repeat(40));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert!(lines[0].starts_with("label   word") && lines[1].starts_with("        word"));
    }
}
