//! Which parts of a grammar can be lexemes.
//!
//! A part is a candidate if it is a regular expression: no recursion, no tokens. A lexer that takes all it can get reads
//! a candidate A as the grammar means it, unless a text of A goes on, with something that may follow A, as the
//! beginning of a text of some candidate B (B may be A itself): then it would run on in B and never come back. So as
//! long as there are such A and B, B is given up and its parts are candidates in its place. Single characters are never
//! given up, since there is nothing to run on in.

use super::parse::{Body, Grammar, NodeId};
use super::ranges::Ranges;
use llguidance::derivre::{RegexAst, RegexBuilder};
use std::collections::{HashMap, HashSet};

/// A longer expression is not made.
const MAX_REGEX_BYTES: usize = 4_000;
/// What deciding about one pair may cost, in steps of the regular expression engine.
const PAIR_FUEL: u64 = 20_000;
/// What deciding about all may cost; then everything is parsed character by character.
const MAX_PAIRS: usize = 4_000;

/// A lexeme of the result.
pub(super) struct Lexeme {
    pub(super) regex: String,
    /// Whether it may be empty; the lexer's never is.
    pub(super) nullable: bool,
    first: Ranges,
    follow: Ranges,
    single: bool,
}

/// The choice made.
pub(super) struct Lexemes {
    pub(super) all: Vec<Lexeme>,
    of_node: HashMap<NodeId, usize>,
    parsed_rules: HashSet<usize>,
}

impl Lexemes {
    /// The lexeme that a node is.
    pub(super) fn of(&self, node: NodeId) -> Option<usize> {
        self.of_node.get(&node).copied()
    }

    /// Whether a rule is parsed, not read by the lexer alone.
    pub(super) fn parses_rule(&self, rule: usize) -> bool {
        self.parsed_rules.contains(&rule)
    }
}

/// Makes the choice.
pub(super) fn find(grammar: &Grammar) -> Lexemes {
    let facts = Facts::new(grammar);
    let mut given_up: HashSet<String> = HashSet::new();
    let mut harmless: HashSet<(String, String, Ranges)> = HashSet::new();
    let mut pairs = 0;
    loop {
        let lexemes = choose(grammar, &facts, &given_up, pairs >= MAX_PAIRS);
        let mut found = HashSet::new();
        for (a, b) in pairs_that_may_clash(&lexemes.all) {
            let key = (a.regex.clone(), b.regex.clone(), a.follow.clone());
            if found.contains(&b.regex) || harmless.contains(&key) || pairs >= MAX_PAIRS {
                continue;
            }
            pairs += 1;
            if runs_on(a, b) {
                found.insert(b.regex.clone());
            } else {
                harmless.insert(key);
            }
        }
        if found.is_empty() && pairs < MAX_PAIRS {
            return lexemes;
        }
        if pairs >= MAX_PAIRS {
            return choose(grammar, &facts, &given_up, true);
        }
        given_up.extend(found);
    }
}

fn pairs_that_may_clash(all: &[Lexeme]) -> impl Iterator<Item = (&Lexeme, &Lexeme)> {
    let longer = move || all.iter().filter(|lexeme| !lexeme.single);
    all.iter()
        .filter(|a| !a.follow.0.is_empty())
        .flat_map(move |a| longer().filter(move |b| a.first.intersects(&b.first)).map(move |b| (a, b)))
}

/// Whether a text of `a`, followed by the beginning of something that may follow, is the beginning of a text of `b`.
/// When in doubt, yes.
fn runs_on(a: &Lexeme, b: &Lexeme) -> bool {
    let some = || RegexAst::Regex("(?s:.+)".into());
    let whole = |lexeme: &Lexeme| RegexAst::Regex(lexeme.regex.clone());
    let any = RegexAst::Repeat(Box::new(RegexAst::ByteSet(vec![u32::MAX; 8])), 0, u32::MAX);
    let follow = RegexAst::ByteSet(a.follow.first_bytes().to_vec());
    let runs = RegexAst::Concat(vec![RegexAst::And(vec![whole(a), some()]), follow, any]);
    let mut builder = RegexBuilder::new();
    let built = builder.mk(&RegexAst::And(vec![whole(b), runs]));
    built
        .and_then(|expression| builder.into_regex_limited(expression, PAIR_FUEL))
        .map_or(true, |mut regex| !regex.always_empty())
}

/// What every node can be, can begin with and can be followed by.
struct Facts {
    regexes: Vec<Option<String>>,
    nullable: Vec<bool>,
    first: Vec<Ranges>,
    follow: Vec<Ranges>,
}

impl Facts {
    fn new(grammar: &Grammar) -> Self {
        let count = grammar.nodes.len();
        let mut facts = Self {
            regexes: vec![None; count],
            nullable: vec![false; count],
            first: vec![Ranges::default(); count],
            follow: vec![Ranges::default(); count],
        };
        while facts.grow_first(grammar) {}
        while facts.grow_follow(grammar) {}
        facts.find_regexes(grammar);
        facts
    }

    /// One round towards what nodes begin with. Whether there may be more.
    fn grow_first(&mut self, grammar: &Grammar) -> bool {
        let mut changed = false;
        for node in 0..grammar.nodes.len() {
            let (nullable, parts): (bool, Vec<NodeId>) = match grammar.node(node) {
                Body::Characters(ranges) => {
                    changed |= self.first[node].add(ranges);
                    continue;
                }
                Body::Token { .. } => continue,
                Body::Rule(rule) => {
                    let body = grammar.rules[*rule].body;
                    (self.nullable[body], vec![body])
                }
                Body::Sequence(parts) => {
                    let leading = parts.iter().take_while(|part| self.nullable[**part]).count();
                    (leading == parts.len(), parts.iter().take(leading + 1).copied().collect())
                }
                Body::Choice(parts) => (parts.iter().any(|part| self.nullable[*part]), parts.clone()),
                Body::Repeat { part, minimum, .. } => (*minimum == 0 || self.nullable[*part], vec![*part]),
            };
            changed |= nullable && !self.nullable[node];
            self.nullable[node] |= nullable;
            for part in parts {
                let first = self.first[part].clone();
                changed |= self.first[node].add(&first);
            }
        }
        changed
    }

    /// One round towards what follows nodes. Whether there may be more.
    fn grow_follow(&mut self, grammar: &Grammar) -> bool {
        let mut changed = false;
        for node in (0..grammar.nodes.len()).rev() {
            let outer = self.follow[node].clone();
            match grammar.node(node) {
                Body::Characters(_) | Body::Token { .. } => {}
                Body::Rule(rule) => changed |= self.follow[grammar.rules[*rule].body].add(&outer),
                Body::Choice(parts) => {
                    for part in parts {
                        changed |= self.follow[*part].add(&outer);
                    }
                }
                Body::Repeat { part, maximum, .. } => {
                    changed |= self.follow[*part].add(&outer);
                    if *maximum != Some(1) {
                        let again = self.first[*part].clone();
                        changed |= self.follow[*part].add(&again);
                    }
                }
                Body::Sequence(parts) => {
                    let mut after = outer;
                    for part in parts.iter().rev() {
                        changed |= self.follow[*part].add(&after);
                        if !self.nullable[*part] {
                            after = Ranges::default();
                        }
                        after.add(&self.first[*part]);
                    }
                }
            }
        }
        changed
    }

    /// The regular expression of every node that is one and is not too long. Rules that need each other have none.
    fn find_regexes(&mut self, grammar: &Grammar) {
        // A node's parts come before it; other rules may come later, so rounds are needed, one a level of rules.
        loop {
            let mut changed = false;
            for node in 0..grammar.nodes.len() {
                if self.regexes[node].is_none()
                    && let Some(regex) =
                        self.regex(grammar, node).filter(|text| text.len() <= MAX_REGEX_BYTES)
                {
                    self.regexes[node] = Some(regex);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }

    fn regex(&self, grammar: &Grammar, node: NodeId) -> Option<String> {
        let of = |part: &NodeId| self.regexes[*part].as_deref();
        let joined = |parts: &[NodeId], separator: &str| {
            parts.iter().map(of).collect::<Option<Vec<_>>>().map(|texts| texts.join(separator))
        };
        Some(match grammar.node(node) {
            Body::Characters(ranges) => ranges.regex(),
            Body::Token { .. } => return None,
            Body::Rule(rule) => of(&grammar.rules[*rule].body)?.to_owned(),
            Body::Sequence(parts) => joined(parts, "")?,
            Body::Choice(parts) => format!("(?:{})", joined(parts, "|")?),
            Body::Repeat { part, minimum, maximum: Some(maximum) } => {
                format!("(?:{}){{{minimum},{maximum}}}", of(part)?)
            }
            Body::Repeat { part, minimum, maximum: None } => format!("(?:{}){{{minimum},}}", of(part)?),
        })
    }
}

/// The largest parts that are regular and not given up; with `characters_only`, single characters.
fn choose(grammar: &Grammar, facts: &Facts, given_up: &HashSet<String>, characters_only: bool) -> Lexemes {
    let mut lexemes = Lexemes { all: Vec::new(), of_node: HashMap::new(), parsed_rules: HashSet::new() };
    let mut by_regex: HashMap<&str, usize> = HashMap::new();
    let mut open = vec![grammar.rules[grammar.root].body];
    lexemes.parsed_rules.insert(grammar.root);
    while let Some(node) = open.pop() {
        let body = grammar.node(node);
        let single = matches!(body, Body::Characters(_));
        // An empty text is none of the lexer's.
        let regex = facts.regexes[node].as_deref().filter(|_| !facts.first[node].0.is_empty());
        let regex = regex.filter(|regex| single || !(characters_only || given_up.contains(*regex)));
        if let Some(regex) = regex {
            let index = *by_regex.entry(regex).or_insert_with(|| {
                lexemes.all.push(Lexeme {
                    regex: regex.to_owned(),
                    nullable: facts.nullable[node],
                    first: facts.first[node].clone(),
                    follow: Ranges::default(),
                    single,
                });
                lexemes.all.len() - 1
            });
            lexemes.all[index].follow.add(&facts.follow[node]);
            lexemes.of_node.insert(node, index);
            continue;
        }
        match body {
            Body::Rule(rule) => {
                if lexemes.parsed_rules.insert(*rule) {
                    open.push(grammar.rules[*rule].body);
                }
            }
            Body::Sequence(parts) | Body::Choice(parts) => open.extend(parts),
            Body::Repeat { part, .. } => open.push(*part),
            Body::Characters(_) | Body::Token { .. } => {}
        }
    }
    lexemes
}
