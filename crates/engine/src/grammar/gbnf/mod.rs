//! llama.cpp's grammar notation (GBNF), brought into Lark.
//!
//! GBNF describes characters; `llguidance` cuts a text into lexemes first, each as long as it can be, and parses those.
//! Taken word for word, `"a" "b" | "ab" "c"` would lose "ab": the lexer would have read `"ab"`. So a part of a grammar
//! becomes one lexeme only where that is proven to change nothing ([`lexemes`]); what remains is parsed character by
//! character, which is always right and slower.

mod lexemes;
mod parse;
mod ranges;

use lexemes::Lexemes;
use parse::{Body, Grammar, NodeId};
use std::fmt::Write;

/// The Lark grammar of the same language. `token` finds the token of a spelling (`<think>`).
///
/// # Errors
/// With the line, if `source` is no GBNF; if it is too large to be analysed.
pub fn to_lark(source: &str, token: impl Fn(&str) -> Option<u32>) -> Result<String, String> {
    let grammar = parse::parse(source, &token)?;
    let lexemes = lexemes::find(&grammar);
    let mut writer = Writer { grammar: &grammar, lexemes: &lexemes, text: String::new() };
    writer.write_all();
    Ok(writer.text)
}

struct Writer<'a> {
    grammar: &'a Grammar,
    lexemes: &'a Lexemes,
    text: String,
}

impl Writer<'_> {
    fn write_all(&mut self) {
        let _ = writeln!(self.text, "start: r{}", self.grammar.root);
        for (index, rule) in self.grammar.rules.iter().enumerate() {
            if self.lexemes.parses_rule(index) {
                let _ = write!(self.text, "r{index}: ");
                self.write(rule.body);
                self.text.push('\n');
            }
        }
        for (index, lexeme) in self.lexemes.all.iter().enumerate() {
            let not_empty = if lexeme.nullable { " & /(?s:.+)/" } else { "" };
            let _ = writeln!(self.text, "L{index}: /{}/{not_empty}", lexeme.regex);
        }
    }

    fn write(&mut self, node: NodeId) {
        if let Some(lexeme) = self.lexemes.of(node) {
            let optional = if self.lexemes.all[lexeme].nullable { "?" } else { "" };
            let _ = write!(self.text, "L{lexeme}{optional}");
            return;
        }
        match self.grammar.node(node) {
            Body::Characters(_) => unreachable!("one character is always a lexeme"),
            Body::Token { id, negated } => {
                let _ = write!(self.text, "<[{}{id}]>", if *negated { "^" } else { "" });
            }
            Body::Rule(rule) => {
                let _ = write!(self.text, "r{rule}");
            }
            Body::Sequence(parts) if parts.is_empty() => self.text.push_str("\"\""),
            Body::Sequence(parts) => self.write_joined(parts, " "),
            Body::Choice(parts) => self.write_joined(parts, " | "),
            Body::Repeat { part, minimum, maximum } => {
                self.text.push('(');
                self.write(*part);
                let _ = match maximum {
                    Some(maximum) => write!(self.text, "){{{minimum},{maximum}}}"),
                    None => write!(self.text, "){{{minimum},}}"),
                };
            }
        }
    }

    fn write_joined(&mut self, parts: &[NodeId], separator: &str) {
        self.text.push('(');
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.text.push_str(separator);
            }
            self.write(*part);
        }
        self.text.push(')');
    }
}

#[cfg(test)]
mod tests;
