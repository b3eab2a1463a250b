//! What is read in a template's source before the engine parses it.
//!
//! The engine's parser and compiler recurse as deep as an expression nests, and an expression nests with every link of
//! a chain (`x.a.b.c`, `1 + 2 + 3`, `x | a | b`), so a chain of thousands overflows the stack. [`check`] counts first.
//!
//! [`guarded`] puts calls of functions of our own around two expressions that no instruction of the compiled template
//! stands for: what is assigned to an attribute of a namespace, and what a loop goes through.

use std::ops::Range;

use minijinja::machinery::{Span, Token, WhitespaceConfig, tokenize};

use super::limits::{HOLD, ITERATE, RESERVED};

/// How deep an expression may nest, counted as [`nests_deeper_than`] does. Python's Jinja gives up at about the same depth; the
/// expressions of real templates have some twenty.
const MAX_DEPTH: usize = 200;
/// `elif`s that nest in each other, as those of one `if` do.
const MAX_ELIFS: usize = 200;
/// Bytes that texts multiplied by numbers may have together: the engine computes them while it compiles.
pub(super) const MAX_CONSTANT_BYTES: usize = 4 << 20;

/// What is wrong with a template's source, and in which line.
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) text: String,
}

type Tokens<'source> = Vec<(Token<'source>, Span)>;

/// The tokens between the brackets of each tag. Ends early where the source is not Jinja, for the parser to say why.
fn tags<'source>(source: &'source str, whitespace: WhitespaceConfig) -> Vec<Tokens<'source>> {
    let mut tags = Vec::new();
    let mut tag = None;
    for token in tokenize(source, false, Default::default(), whitespace) {
        let Ok((token, span)) = token else { break };
        match token {
            Token::TemplateData(_) => {}
            Token::VariableStart | Token::BlockStart => tag = Some(Vec::new()),
            Token::VariableEnd | Token::BlockEnd => tags.extend(tag.take()),
            token => tag.get_or_insert_default().push((token, span)),
        }
    }
    tags.extend(tag);
    tags
}

/// Refuses sources that would overflow the engine's stack or fill memory before a limit on rendering can hold.
pub(super) fn check(source: &str, whitespace: WhitespaceConfig) -> Result<(), Problem> {
    // Of the `if`s that are open: how many `elif`s they stand in themselves.
    let mut outer_elifs = Vec::new();
    let (mut elifs, mut constants) = (0, 0_usize);
    for tag in tags(source, whitespace) {
        let Some((first, span)) = tag.first() else { continue };
        let refused = |text: String| Err(Problem { line: span.start_line.into(), text });
        match first {
            Token::Ident("if") => outer_elifs.push(elifs),
            Token::Ident("elif") => elifs += 1,
            Token::Ident("endif") => elifs = outer_elifs.pop().unwrap_or(0),
            _ => {}
        }
        if tag.iter().any(|(token, _)| matches!(token, Token::Ident(name) if name.starts_with(RESERVED))) {
            return refused(format!("names that begin with {RESERVED} are reserved"));
        }
        if elifs > MAX_ELIFS {
            return refused(format!("more than {MAX_ELIFS} elif in each other"));
        }
        if nests_deeper_than(MAX_DEPTH, &tag) {
            return refused(format!(
                "an expression of more than {MAX_DEPTH} links (dots, calls, operators, ...)"
            ));
        }
        constants = constants.saturating_add(multiplied_bytes(&tag));
        if constants > MAX_CONSTANT_BYTES {
            return refused(format!("texts multiplied to more than {MAX_CONSTANT_BYTES} bytes"));
        }
    }
    Ok(())
}

/// Whether the expressions of a tag nest deeper than `limit`: every operator, dot, call, filter, test and bracket
/// counts as one level for all that follows it, up to the next comma or colon of the same bracket.
fn nests_deeper_than(limit: usize, tag: &[(Token<'_>, Span)]) -> bool {
    // For each open bracket: the depth it was opened at, and the deepest that anything in it got.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let (mut depth, mut deepest) = (0, 0);
    for (token, _) in tag {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                depth += 1;
                open.push((depth, depth));
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                let (_, within) = open.pop().unwrap_or_default();
                depth = depth.max(within);
            }
            Token::Comma | Token::Colon => match open.last_mut() {
                Some((outside, within)) => {
                    *within = depth.max(*within);
                    depth = *outside;
                }
                None => depth = 0,
            },
            Token::Ident("and" | "or" | "not" | "if" | "else" | "is" | "in") => depth += 1,
            Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::FloorDiv | Token::Pow => depth += 1,
            Token::Mod | Token::Dot | Token::Tilde | Token::Pipe => depth += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest > limit
}

/// At most so many bytes can the texts in a tag become by multiplying them with the numbers in it.
fn multiplied_bytes(tag: &[(Token<'_>, Span)]) -> usize {
    if !tag.iter().any(|(token, _)| matches!(token, Token::Mul)) {
        return 0;
    }
    let (mut bytes, mut times) = (0_usize, 1_usize);
    for (token, _) in tag {
        match token {
            Token::Str(text) => bytes += text.len(),
            Token::String(text) => bytes += text.len(),
            Token::Int(number) => {
                let number = usize::try_from(*number).unwrap_or(usize::MAX);
                times = times.saturating_mul(number.max(1));
            }
            Token::Int128(_) => times = usize::MAX,
            _ => {}
        }
    }
    bytes.saturating_mul(times)
}

/// The source with [`HOLD`] around what is assigned to attributes and [`ITERATE`] around what loops go through. Lines
/// stay what they were.
pub(super) fn guarded(source: &str, whitespace: WhitespaceConfig) -> String {
    let mut guarded = String::with_capacity(source.len());
    let mut done = 0;
    for tag in tags(source, whitespace) {
        let Some((function, expression)) = guard(&tag) else { continue };
        guarded.push_str(&source[done..expression.start]);
        // Two pairs of brackets: `set x.a = 1, 2` assigns one list.
        guarded.push_str(function);
        guarded.push_str("((");
        guarded.push_str(&source[expression.clone()]);
        guarded.push_str("))");
        done = expression.end;
    }
    guarded + &source[done..]
}

/// The function that has to be put around an expression of this tag, and where that expression stands.
fn guard(tag: &[(Token<'_>, Span)]) -> Option<(&'static str, Range<usize>)> {
    let between = |first: usize, end: usize| {
        let inside = tag.get(first..end).filter(|inside| !inside.is_empty())?;
        Some(inside[0].1.start_offset as usize..inside[inside.len() - 1].1.end_offset as usize)
    };
    match tag.first()?.0 {
        Token::Ident("set") => {
            let assign = tag.iter().position(|(token, _)| matches!(token, Token::Assign))?;
            let to_attribute = tag[..assign].iter().any(|(token, _)| matches!(token, Token::Dot));
            if to_attribute { Some((HOLD, between(assign + 1, tag.len())?)) } else { None }
        }
        Token::Ident("for") => {
            let begin = tag.iter().position(|(token, _)| matches!(token, Token::Ident("in")))? + 1;
            let end = outside_brackets(tag)
                .find(|at| *at >= begin && matches!(tag[*at].0, Token::Ident("if" | "recursive")));
            Some((ITERATE, between(begin, end.unwrap_or(tag.len()))?))
        }
        _ => None,
    }
}

/// The places of the tokens that are words of their own: in no bracket, and no attribute.
fn outside_brackets<'a>(tag: &'a [(Token<'_>, Span)]) -> impl Iterator<Item = usize> + 'a {
    let mut open = 0_usize;
    (0..tag.len()).filter(move |at| {
        match tag[*at].0 {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => open += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => open = open.saturating_sub(1),
            _ => {}
        }
        let attribute = *at > 0 && matches!(tag[*at - 1].0, Token::Dot | Token::Pipe);
        open == 0 && !attribute
    })
}
