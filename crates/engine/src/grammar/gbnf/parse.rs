//! Reading GBNF into a tree.

use super::ranges::Ranges;
use std::collections::HashMap;

/// No grammar has more parts.
const MAX_NODES: usize = 20_000;
/// Nothing is repeated more often than this, unless without end.
const MAX_REPETITIONS: u32 = 2_000;

/// Where a node is in its grammar.
pub(super) type NodeId = usize;

/// A part of a rule. Each has one place in one rule.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    /// One character of a set.
    Characters(Ranges),
    /// One token, or any but this one.
    Token {
        id: u32,
        negated: bool,
    },
    /// Another rule, by its index.
    Rule(usize),
    Sequence(Vec<NodeId>),
    Choice(Vec<NodeId>),
    Repeat {
        part: NodeId,
        minimum: u32,
        maximum: Option<u32>,
    },
}

pub(super) struct Rule {
    pub(super) body: NodeId,
}

pub(super) struct Grammar {
    pub(super) rules: Vec<Rule>,
    pub(super) root: usize,
    pub(super) nodes: Vec<Body>,
}

impl Grammar {
    pub(super) fn node(&self, node: NodeId) -> &Body {
        &self.nodes[node]
    }
}

/// Reads a grammar.
pub(super) fn parse(source: &str, token: &dyn Fn(&str) -> Option<u32>) -> Result<Grammar, String> {
    let mut reader =
        Reader { source, at: 0, token, nodes: Vec::new(), names: HashMap::new(), bodies: Vec::new() };
    let rules = reader.rules();
    rules.map_err(|problem| format!("line {}: {problem}", reader.line()))?;
    let Reader { nodes, names, bodies, .. } = reader;
    let mut rules = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.iter().enumerate() {
        let name = || names.iter().find(|(_, at)| **at == index).map_or("", |(name, _)| name.as_str());
        rules.push(Rule {
            body: body.ok_or_else(|| format!("the rule `{}` is used, but not defined", name()))?,
        });
    }
    let root = *names.get("root").ok_or("there is no rule `root`")?;
    Ok(Grammar { rules, root, nodes })
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    token: &'a dyn Fn(&str) -> Option<u32>,
    nodes: Vec<Body>,
    names: HashMap<String, usize>,
    bodies: Vec<Option<NodeId>>,
}

impl Reader<'_> {
    fn line(&self) -> usize {
        self.source[..self.at].matches('\n').count() + 1
    }

    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn skips(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.skips(text) {
            return Ok(());
        }
        let found = self.peek().map_or("the end".to_owned(), |character| format!("{character:?}"));
        Err(format!("expected `{text}`, found {found}"))
    }

    /// Skips white space and comments, line breaks only where `lines`.
    fn space(&mut self, lines: bool) {
        while let Some(character) = self.peek() {
            match character {
                '#' => self.at += self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()),
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if lines => self.at += 1,
                _ => break,
            }
        }
    }

    fn push(&mut self, body: Body) -> Result<NodeId, String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("the grammar has more than {MAX_NODES} parts"));
        }
        self.nodes.push(body);
        Ok(self.nodes.len() - 1)
    }

    fn rule(&mut self, name: &str) -> usize {
        let next = self.names.len();
        let index = *self.names.entry(name.to_owned()).or_insert(next);
        if index == self.bodies.len() {
            self.bodies.push(None);
        }
        index
    }

    fn rules(&mut self) -> Result<(), String> {
        self.space(true);
        while self.peek().is_some() {
            let name = self.name()?;
            self.space(false);
            self.expect("::=")?;
            self.space(true);
            let body = self.choice(false)?;
            let index = self.rule(&name);
            // The last definition counts, as in llama.cpp.
            self.bodies[index] = Some(body);
            if self.peek().is_some() {
                self.skips("\r");
                self.expect("\n")?;
            }
            self.space(true);
        }
        Ok(())
    }

    fn name(&mut self) -> Result<String, String> {
        let is_name =
            |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
        let length = self.rest().find(|character| !is_name(character)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err("expected the name of a rule".into());
        }
        let name = self.rest()[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn choice(&mut self, nested: bool) -> Result<NodeId, String> {
        let mut parts = vec![self.sequence(nested)?];
        while self.skips("|") {
            self.space(true);
            parts.push(self.sequence(nested)?);
        }
        if parts.len() == 1 { Ok(parts[0]) } else { self.push(Body::Choice(parts)) }
    }

    fn sequence(&mut self, nested: bool) -> Result<NodeId, String> {
        let mut parts = Vec::new();
        while let Some(character) = self.peek() {
            let part = match character {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    self.push(Body::Characters(Ranges::all()))?
                }
                '(' => {
                    self.at += 1;
                    self.space(true);
                    let group = self.choice(true)?;
                    self.expect(")")?;
                    group
                }
                '<' | '!' => self.token()?,
                _ if character.is_ascii_alphanumeric() || character == '-' || character == '_' => {
                    let name = self.name()?;
                    let rule = self.rule(&name);
                    self.push(Body::Rule(rule))?
                }
                _ => break,
            };
            self.space(nested);
            parts.push(self.repeated(part, nested)?);
        }
        if parts.len() == 1 { Ok(parts[0]) } else { self.push(Body::Sequence(parts)) }
    }

    fn repeated(&mut self, mut part: NodeId, nested: bool) -> Result<NodeId, String> {
        loop {
            let (minimum, maximum) = if self.skips("*") {
                (0, None)
            } else if self.skips("+") {
                (1, None)
            } else if self.skips("?") {
                (0, Some(1))
            } else if self.skips("{") {
                self.bounds()?
            } else {
                return Ok(part);
            };
            self.space(nested);
            let never = maximum == Some(0);
            let repeated = Body::Repeat { part, minimum, maximum };
            part = self.push(if never { Body::Sequence(Vec::new()) } else { repeated })?;
        }
    }

    /// What is between braces: `{m}`, `{m,}`, `{m,n}`, `{,n}`.
    fn bounds(&mut self) -> Result<(u32, Option<u32>), String> {
        self.space(false);
        let minimum = self.number()?;
        self.space(false);
        let bounds = if self.skips(",") {
            self.space(false);
            (minimum.unwrap_or(0), self.number()?)
        } else {
            let count = minimum.ok_or("expected a number of repetitions")?;
            (count, Some(count))
        };
        self.space(false);
        self.expect("}")?;
        if bounds.1.is_some_and(|maximum| maximum < bounds.0) {
            return Err(format!("at least {} repetitions and at most {}", bounds.0, bounds.1.unwrap_or(0)));
        }
        Ok(bounds)
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        let length =
            self.rest().find(|character: char| !character.is_ascii_digit()).unwrap_or(self.rest().len());
        if length == 0 {
            return Ok(None);
        }
        let number = self.rest()[..length].parse().ok().filter(|number| *number <= MAX_REPETITIONS);
        self.at += length;
        number.map(Some).ok_or_else(|| format!("more than {MAX_REPETITIONS} repetitions"))
    }

    fn literal(&mut self) -> Result<NodeId, String> {
        self.at += 1;
        let mut parts = Vec::new();
        while !self.skips("\"") {
            let character = self.character()?;
            parts.push(self.push(Body::Characters(Ranges::one(character)))?);
        }
        if parts.len() == 1 { Ok(parts[0]) } else { self.push(Body::Sequence(parts)) }
    }

    fn class(&mut self) -> Result<NodeId, String> {
        self.at += 1;
        let negated = self.skips("^");
        let mut ranges = Vec::new();
        while !self.skips("]") {
            let first = self.character()? as u32;
            let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let last = if is_range {
                self.at += 1;
                self.character()? as u32
            } else {
                first
            };
            if last < first {
                return Err("a range of characters that ends before it begins".into());
            }
            ranges.push((first, last));
        }
        let ranges = Ranges::new(ranges);
        let ranges = if negated { ranges.negated() } else { ranges };
        if ranges.0.is_empty() {
            return Err("a set without characters".into());
        }
        self.push(Body::Characters(ranges))
    }

    /// A character, perhaps escaped.
    fn character(&mut self) -> Result<char, String> {
        let unfinished = || "a string or set that does not end".to_owned();
        match self.take().ok_or_else(unfinished)? {
            '\\' => {}
            character => return Ok(character),
        }
        let digits = match self.take().ok_or_else(unfinished)? {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'n' => return Ok('\n'),
            character @ ('\\' | '"' | '[' | ']' | '-' | '^') => return Ok(character),
            other => return Err(format!("unknown escape `\\{other}`")),
        };
        let code = self.rest().get(..digits).and_then(|text| u32::from_str_radix(text, 16).ok());
        let character = code.and_then(char::from_u32).ok_or("an escape that is no character")?;
        self.at += digits;
        Ok(character)
    }

    /// `<spelling>` or `<[id]>`, perhaps negated.
    fn token(&mut self) -> Result<NodeId, String> {
        let negated = self.skips("!");
        self.expect("<")?;
        let length = self.rest().find('>').ok_or("a token that does not end")?;
        let name = self.rest()[..length].to_owned();
        let number = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let id = match number {
            Some(number) => number.parse().map_err(|_| format!("`{name}` is no number of a token"))?,
            None => (self.token)(&format!("<{name}>"))
                .ok_or_else(|| format!("`<{name}>` is no token of this model"))?,
        };
        self.at += length + 1;
        self.push(Body::Token { id, negated })
    }
}
