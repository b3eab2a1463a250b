//! Microseconds that grammars take per token, with a model's vocabulary:
//! `cargo run --release -p alti-engine --example grammar_speed -- MODEL`. One core; the text is drawn from the masks,
//! each token as likely as any other, so that it is harder on the parser than a model's would be.

use alti_engine::grammar::{GrammarFactory, GrammarSource};
use alti_text::Tokenizer;
use std::path::Path;
use std::time::{Duration, Instant};

const ANSWERS: u64 = 20;
const TOKENS: usize = 200;

const SCHEMA: &str = r##"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
    "tags": {"type": "array", "items": {"enum": ["alpha", "beta"]}}, "parent": {"$ref": "#"},
    "date": {"type": "string", "format": "date"}}, "required": ["name", "tags"], "additionalProperties": false}"##;

fn sources() -> Vec<(&'static str, GrammarSource)> {
    let json = include_str!("../tests/grammar/published/json.gbnf");
    let code = include_str!("../tests/grammar/published/c.gbnf");
    vec![
        ("JSON object", GrammarSource::JsonObject),
        ("JSON schema", GrammarSource::JsonSchema(SCHEMA.into())),
        ("regular expression", GrammarSource::Regex(r"([A-Z][a-z]{1,12} ?){2,30}\.".into())),
        ("GBNF json", GrammarSource::Gbnf(json.into())),
        ("GBNF c", GrammarSource::Gbnf(code.into())),
    ]
}

/// What an answer took: masks and accepts, and the longest mask.
struct Taken {
    tokens: usize,
    mask: Duration,
    accept: Duration,
    longest: Duration,
}

fn answer(
    factory: &GrammarFactory,
    source: &GrammarSource,
    seed: u64,
) -> Result<Taken, alti_engine::EngineError> {
    let mut grammar = factory.compile(source)?;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut taken =
        Taken { tokens: 0, mask: Duration::ZERO, accept: Duration::ZERO, longest: Duration::ZERO };
    while taken.tokens < TOKENS && !grammar.is_finished() {
        let start = Instant::now();
        let mask = grammar.mask()?;
        let time = start.elapsed();
        taken.mask += time;
        taken.longest = taken.longest.max(time);
        let allowed: u32 = mask.iter().map(|word| word.count_ones()).sum();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut nth = (state % u64::from(allowed.max(1))) as u32;
        let drawn = (0..mask.len() as u32 * 32).find(|token| {
            let is_allowed = mask[*token as usize / 32] >> (token % 32) & 1 == 1;
            let found = is_allowed && nth == 0;
            nth -= u32::from(is_allowed && nth > 0);
            found
        });
        let Some(token) = drawn else { break };
        let start = Instant::now();
        grammar.accept(token)?;
        taken.accept += start.elapsed();
        taken.tokens += 1;
    }
    Ok(taken)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("the path of a model is missing")?;
    let tokenizer = Tokenizer::open(Path::new(&model))?;
    let start = Instant::now();
    let factory = GrammarFactory::new(&tokenizer, tokenizer.vocabulary_size())?;
    println!("vocabulary of {}: {:.0} ms", tokenizer.vocabulary_size(), start.elapsed().as_secs_f64() * 1e3);
    println!("{:20} {:>11} {:>10} {:>10} {:>12}", "", "compile, us", "mask, us", "accept, us", "longest, us");
    for (name, source) in sources() {
        let start = Instant::now();
        factory.compile(&source)?;
        let compiled = start.elapsed();
        let answers =
            (0..ANSWERS).map(|seed| answer(&factory, &source, seed)).collect::<Result<Vec<_>, _>>()?;
        let tokens: usize = answers.iter().map(|taken| taken.tokens).sum();
        let each = |total: Duration| total.as_secs_f64() * 1e6 / tokens as f64;
        let mask = each(answers.iter().map(|taken| taken.mask).sum());
        let accept = each(answers.iter().map(|taken| taken.accept).sum());
        let longest = answers.iter().map(|taken| taken.longest).max().unwrap_or_default();
        println!(
            "{name:20} {:11.0} {mask:10.1} {accept:10.1} {:12.0}",
            compiled.as_secs_f64() * 1e6,
            longest.as_secs_f64() * 1e6
        );
    }
    Ok(())
}
