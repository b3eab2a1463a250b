//! What a template may take. Templates come with downloaded models, so one must neither run forever nor fill memory;
//! the engine counts instructions but not bytes, and forty instructions that double a text are a terabyte, a million
//! that compare texts of a megabyte an hour.
//!
//! So all that makes text or lists is charged before it runs against a budget of bytes to make, and all that goes
//! through text or lists against a budget of bytes to read: operators ([`super::operators`]), filters, tests, methods
//! and what is printed. Text that stands in the template itself is printed without a charge, which the number of
//! instructions bounds.

use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::machinery::{CompiledTemplate, TemplateConfig, Vm, WhitespaceConfig, make_string_output};
use minijinja::value::{Object, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, filters, functions, tests};

use super::operators;

/// Bytes one rendering may make in all, besides a multiple of what it is given (a template that builds its prompt by
/// appending copies it once for each message).
const BYTES: usize = 8 << 20;
const COPIES_OF_CONTEXT: usize = 64;
/// Bytes one rendering may read in all, besides a multiple of what it is given.
const READ_BYTES: usize = 256 << 20;
const READINGS_OF_CONTEXT: usize = 8 * COPIES_OF_CONTEXT;
/// Instructions one rendering may take in all, and for each message.
const INSTRUCTIONS: u64 = 2_000_000;
const INSTRUCTIONS_PER_MESSAGE: u64 = 10_000;
/// Bytes of the template's own text that all instructions together could print, in all and for each message. A loop
/// around a text takes four instructions, so that a quarter of this is printed; each byte may become a token.
const PRINTED_BYTES: u64 = 24 << 20;
const PRINTED_BYTES_PER_MESSAGE: u64 = 512 << 10;
/// What an item of a list that is made is charged.
const ITEM_BYTES: usize = 32;
/// What an item that is a list of its own, such as a pair, is charged.
const GROUP_BYTES: usize = 4 * ITEM_BYTES;
/// What an item that is gone through is charged: as long as that takes, so many bytes of text are compared.
const ITEM_READ_BYTES: usize = 256;
/// How much longer than comparing two texts it takes to look for one in the other, or to classify its characters.
const SEARCH: usize = 4;
/// How much longer than going through a text it takes to look it up, as the names of attributes are.
const LOOK_UP: usize = 32;

/// How all names begin that only this crate may use in an environment.
pub(super) const RESERVED: &str = "__alti_";
const METER: &str = "__alti_meter";
/// The function that says whether a namespace may hold a value.
pub(super) const HOLD: &str = "__alti_hold";
/// The function around what a loop goes through.
pub(super) const ITERATE: &str = "__alti_iterate";
/// The methods of a loop.
pub(super) const CHANGED: &str = "__alti_changed";
pub(super) const CYCLE: &str = "__alti_cycle";

/// Values may nest this deep: printing, comparing and freeing them recurses.
const MAX_DEPTH: usize = 100;
/// Items a value may have, counted as often as they are reached.
const MAX_ITEMS: usize = 1_000_000;

/// How white space around tags is treated, as `transformers` does it.
pub(super) const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// What is left of a rendering's bytes.
#[derive(Debug)]
struct Meter {
    to_make: AtomicUsize,
    to_read: AtomicUsize,
}

impl Object for Meter {}

/// Takes `bytes` off what is left of one of the meter's budgets.
fn charge(
    state: &State,
    of: fn(&Meter) -> &AtomicUsize,
    bytes: usize,
    problem: &'static str,
) -> Result<(), Error> {
    let meter = state.lookup(METER);
    let Some(meter) = meter.as_ref().and_then(|meter| meter.downcast_object_ref::<Meter>()) else {
        return Ok(());
    };
    let paid = of(meter).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
    paid.map(drop).map_err(|_| Error::new(ErrorKind::InvalidOperation, problem))
}

/// Charges `bytes` that are made to the rendering.
pub(super) fn spend(state: &State, bytes: usize) -> Result<(), Error> {
    charge(state, |meter| &meter.to_make, bytes, "it takes too much memory")
}

/// Charges `bytes` that are gone through to the rendering.
pub(super) fn read(state: &State, bytes: usize) -> Result<(), Error> {
    charge(state, |meter| &meter.to_read, bytes, "it runs too long")
}

/// Bytes that may still be made.
pub(super) fn left(state: &State) -> usize {
    let meter = state.lookup(METER);
    let meter = meter.as_ref().and_then(|meter| meter.downcast_object_ref::<Meter>());
    meter.map_or(BYTES, |meter| meter.to_make.load(Ordering::Relaxed))
}

/// The template with its operators charged, and the longest text that one instruction prints.
pub(super) fn compile<'source>(
    name: &'source str,
    source: &'source str,
) -> Result<(CompiledTemplate<'source>, usize), Error> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: WHITESPACE,
        default_auto_escape: std::sync::Arc::new(|_| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new(name, source, &config)?;
    let mut longest = operators::patch(&mut compiled.instructions)?;
    for block in compiled.blocks.values_mut() {
        longest = longest.max(operators::patch(block)?);
    }
    Ok((compiled, longest))
}

/// Compiles and runs a template for a conversation of so many messages.
pub(super) fn render(
    environment: &Environment<'_>,
    name: &str,
    source: &str,
    context: Value,
    messages: usize,
) -> Result<String, Error> {
    let mut environment = environment.clone();
    let (compiled, longest) = compile(name, source)?;
    let scaled = |base: u64, each: u64| base.saturating_add(each.saturating_mul(messages as u64));
    let printing = scaled(PRINTED_BYTES, PRINTED_BYTES_PER_MESSAGE) / longest.max(1) as u64;
    let instructions = scaled(INSTRUCTIONS, INSTRUCTIONS_PER_MESSAGE);
    environment.set_fuel(Some(instructions.min(printing)));
    let given = size(&context);
    let budget = |base: usize, times: usize| {
        AtomicUsize::new(
            base.saturating_add(given.saturating_mul(messages.max(COPIES_OF_CONTEXT)).saturating_mul(times)),
        )
    };
    let meter = Meter {
        to_make: budget(BYTES, 1),
        to_read: budget(READ_BYTES, READINGS_OF_CONTEXT / COPIES_OF_CONTEXT),
    };
    environment.add_global(METER, Value::from_object(meter));
    let mut rendered = String::new();
    let mut output = make_string_output(&mut rendered);
    Vm::new(&environment).eval(
        &compiled.instructions,
        context,
        &compiled.blocks,
        &mut output,
        AutoEscape::None,
    )?;
    Ok(rendered)
}

/// Puts what charges into an environment, in place of what does not.
pub(super) fn install(environment: &mut Environment<'static>) {
    operators::install(environment);
    install_filters(environment);
    install_tests(environment);
    // They print values as they are in memory, with everything in it.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    for (name, function) in [
        ("namespace", Value::from_function(functions::namespace)),
        ("dict", Value::from_function(functions::dict)),
    ] {
        environment.add_function(name, move |state: &State, arguments: Rest<Value>| {
            spend(state, cost(name, &arguments))?;
            function.call(state, &arguments)
        });
    }
    environment.add_function("range", |lower: isize, upper: Option<isize>, step: Option<isize>| {
        // The engine's own subtracts its arguments unchecked.
        const FARTHEST: isize = 1 << 40;
        let farthest = [Some(lower), upper, step].into_iter().flatten().map(isize::unsigned_abs).max();
        if farthest > Some(FARTHEST as usize) {
            let problem = format!("range() takes numbers up to {FARTHEST}");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        functions::range(lower, upper, step)
    });
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        let all: Vec<Value> = std::iter::once(value).chain(arguments).cloned().collect();
        // "x".join(list) is list | join("x").
        let charged = if method == "join" { all.iter().rev().cloned().collect() } else { all };
        read(state, items_times_others(method, &charged))?;
        spend(state, cost(method, &charged))?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
}

/// What a filter is charged for.
#[derive(Clone, Copy)]
enum Charge {
    /// It copies or grows its input.
    Copies,
    /// It goes through its input.
    Reads,
    /// It makes a list of as many items as its input has.
    Lists,
    /// It counts the items or characters of its input.
    Counts,
}

/// The engine's filters whose cost depends on what they are given.
fn install_filters(environment: &mut Environment<'static>) {
    use Charge::{Copies, Counts, Lists, Reads};
    for (name, filter, charge) in [
        ("attr", Value::from_function(filters::attr), Counts),
        ("batch", Value::from_function(filters::batch), Copies),
        ("bool", Value::from_function(filters::bool), Counts),
        ("capitalize", Value::from_function(filters::capitalize), Copies),
        ("chain", Value::from_function(filters::chain), Copies),
        ("count", Value::from_function(filters::length), Counts),
        ("dictsort", Value::from_function(filters::dictsort), Copies),
        ("e", Value::from_function(filters::escape), Copies),
        ("escape", Value::from_function(filters::escape), Copies),
        ("first", Value::from_function(filters::first), Counts),
        ("float", Value::from_function(filters::float), Counts),
        ("format", Value::from_function(filters::format), Copies),
        ("groupby", Value::from_function(filters::groupby), Copies),
        ("indent", Value::from_function(filters::indent), Copies),
        ("int", Value::from_function(filters::int), Counts),
        ("items", Value::from_function(filters::items), Copies),
        ("join", Value::from_function(filters::join), Copies),
        ("last", Value::from_function(filters::last), Counts),
        ("length", Value::from_function(filters::length), Counts),
        ("lines", Value::from_function(filters::lines), Copies),
        ("list", Value::from_function(filters::list), Copies),
        ("lower", Value::from_function(filters::lower), Copies),
        ("map", Value::from_function(filters::map), Lists),
        ("max", Value::from_function(filters::max), Reads),
        ("min", Value::from_function(filters::min), Reads),
        ("reject", Value::from_function(filters::reject), Lists),
        ("rejectattr", Value::from_function(filters::rejectattr), Lists),
        ("replace", Value::from_function(filters::replace), Copies),
        ("reverse", Value::from_function(filters::reverse), Copies),
        ("safe", Value::from_function(filters::safe), Copies),
        ("select", Value::from_function(filters::select), Lists),
        ("selectattr", Value::from_function(filters::selectattr), Lists),
        ("slice", Value::from_function(filters::slice), Copies),
        ("sort", Value::from_function(filters::sort), Copies),
        ("split", Value::from_function(filters::split), Copies),
        ("sum", Value::from_function(filters::sum), Reads),
        ("title", Value::from_function(filters::title), Copies),
        ("trim", Value::from_function(filters::trim), Copies),
        ("unique", Value::from_function(filters::unique), Copies),
        ("upper", Value::from_function(filters::upper), Copies),
        ("zip", Value::from_function(filters::zip), Copies),
    ] {
        environment.add_filter(name, move |state: &State, arguments: Rest<Value>| {
            let first = arguments.first();
            let items = first.map_or(0, iterated);
            let (reads, makes) = match charge {
                Copies => (0, cost(name, &arguments)),
                Reads => {
                    let characters = first.filter(|value| value.as_str().is_some()).map_or(0, iterated);
                    (all_walks(&arguments).saturating_add(characters.saturating_mul(ITEM_READ_BYTES)), 0)
                }
                Lists => (items.saturating_mul(ITEM_READ_BYTES), items.saturating_mul(ITEM_BYTES)),
                Counts => (first.map_or(0, shallow_walk), 0),
            };
            read(state, reads.saturating_add(items_times_others(name, &arguments)))?;
            spend(state, makes)?;
            eager(filter.call(state, &arguments)?)
        });
    }
}

/// The engine's tests that go through what they are given.
fn install_tests(environment: &mut Environment<'static>) {
    for (names, test) in [
        (&["eq", "equalto", "=="][..], Value::from_function(tests::is_eq)),
        (&["ne", "!="], Value::from_function(tests::is_ne)),
        (&["lt", "lessthan", "<"], Value::from_function(tests::is_lt)),
        (&["le", "<="], Value::from_function(tests::is_le)),
        (&["gt", "greaterthan", ">"], Value::from_function(tests::is_gt)),
        (&["ge", ">="], Value::from_function(tests::is_ge)),
    ] {
        for name in names {
            let test = test.clone();
            environment.add_test(*name, move |state: &State, left: &Value, right: &Value| {
                read(state, compared(left, right))?;
                test.call(state, &[left.clone(), right.clone()]).map(|holds| holds.is_true())
            });
        }
    }
    for (name, test) in [
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("in", Value::from_function(tests::is_in)),
        ("lower", Value::from_function(tests::is_lower)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("upper", Value::from_function(tests::is_upper)),
    ] {
        environment.add_test(name, move |state: &State, arguments: Rest<Value>| {
            read(state, all_walks(&arguments).saturating_mul(SEARCH))?;
            test.call(state, &arguments).map(|holds| holds.is_true())
        });
    }
}

/// What every item of a first argument costs when it is met with the other arguments: attributes that are looked up,
/// values that are compared with; and what items cost that are met with each other.
fn items_times_others(name: &str, arguments: &[Value]) -> usize {
    let Some((first, others)) = arguments.split_first() else { return 0 };
    let items = if first.as_str().is_some() { 1 } else { first.len().unwrap_or(1) };
    let with_others = items.saturating_mul(others.iter().map(size).fold(0, usize::saturating_add));
    let with_others = with_others.saturating_mul(LOOK_UP);
    match name {
        // Each item is met by others about log2(items) times, and both attributes are looked up.
        "sort" | "groupby" | "dictsort" | "unique" => {
            let rounds = 2 * iterated(first).max(2).ilog2() as usize;
            with_others.saturating_add(walk(first)).saturating_mul(rounds)
        }
        _ => with_others,
    }
}

/// At least the bytes that a filter or method makes out of its arguments.
pub(super) fn cost(name: &str, arguments: &[Value]) -> usize {
    let text = |at: usize| arguments.get(at).and_then(Value::as_str).unwrap_or_default();
    let number = |at: usize| arguments.get(at).and_then(Value::as_usize).unwrap_or(0);
    let copy = arguments.iter().map(size).fold(0, usize::saturating_add);
    let most_items = || arguments.iter().map(iterated).max().unwrap_or(0);
    // Lists are charged for their items by what `size` says of them; the characters of a text become items here.
    let grown: usize = match name {
        "list" | "sort" | "unique" => arguments.first().map_or(0, iterated).saturating_mul(ITEM_BYTES),
        "items" | "dictsort" | "groupby" | "chain" | "zip" => most_items().saturating_mul(GROUP_BYTES),
        "split" | "rsplit" | "lines" | "splitlines" => {
            pieces(name, text(0), arguments.get(1)).saturating_mul(2 * ITEM_BYTES)
        }
        "replace" => text(0).matches(text(1)).count().saturating_mul(text(2).len()),
        "join" => {
            let items = arguments.first().map_or(0, iterated);
            items.saturating_mul(arguments.get(1).map_or(0, size).saturating_add(ITEM_BYTES))
        }
        "indent" => text(0).lines().count().saturating_mul(largest_number(arguments)),
        "batch" | "slice" => number(1).saturating_add(most_items()).saturating_mul(GROUP_BYTES),
        "format" => largest_digits(text(0)),
        _ => 0,
    };
    copy.saturating_add(grown)
}

/// Into how many pieces a text is cut at most.
fn pieces(name: &str, text: &str, separator: Option<&Value>) -> usize {
    let cuts = match separator.and_then(Value::as_str) {
        _ if name.ends_with("lines") => text.matches(['\n', '\r']).count(),
        Some(separator) => text.matches(separator).count(),
        None => text.split_whitespace().count(),
    };
    cuts.saturating_add(1)
}

/// The largest number among arguments, by position or by keyword.
fn largest_number(arguments: &[Value]) -> usize {
    let keyword = |value: &Value| value.get_attr("width").ok().and_then(|width| width.as_usize());
    arguments.iter().filter_map(|value| value.as_usize().or_else(|| keyword(value))).max().unwrap_or(0).max(4)
}

/// The largest number spelled in a format: a width or a precision.
fn largest_digits(format: &str) -> usize {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add)
}

/// What comparing two values may go through.
pub(super) fn compared(left: &Value, right: &Value) -> usize {
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => left.len().min(right.len()),
        _ if left.as_object().is_some() && right.as_object().is_some() => walk(left).min(walk(right)),
        _ => 0,
    }
}

/// How many items a loop over a value meets; those of a text are its characters.
fn iterated(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.chars().count(),
        None => value.len().unwrap_or(0),
    }
}

/// What going through a text, or through the items of a list or map without what is in them, is charged.
pub(super) fn shallow_walk(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value.len().unwrap_or(0).saturating_mul(ITEM_READ_BYTES),
    }
}

/// What going through a text for another is charged.
pub(super) fn search(text: &str) -> usize {
    text.len().saturating_mul(SEARCH)
}

/// What going through a value with all that is in it is charged.
pub(super) fn walk(value: &Value) -> usize {
    measure(value, ITEM_READ_BYTES, 0, &mut MAX_ITEMS.clone()).unwrap_or(usize::MAX)
}

fn all_walks(values: &[Value]) -> usize {
    values.iter().map(walk).fold(0, usize::saturating_add)
}

/// A list in place of what makes its items when asked: that keeps alive what nothing can find in it.
pub(super) fn eager(value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Iterable { value.try_iter().map(Value::from_iter) } else { Ok(value) }
}

/// Refuses a value that holds a namespace or a loop. What a namespace holds can be changed later, and what a loop
/// remembers too, so only these could come to contain themselves; then comparing or printing them would not end.
pub(super) fn holds_no_cycle(value: &Value) -> Result<(), Error> {
    let type_name = value.as_object().map(|object| object.type_name()).unwrap_or_default();
    if type_name.ends_with("::Namespace") || type_name.ends_with("::Loop") {
        let problem = "a namespace cannot hold a namespace or a loop";
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    if value.as_str().is_some() || value.len().is_none() {
        return Ok(());
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        holds_no_cycle(&item)?;
        if is_map {
            holds_no_cycle(&value.get_item(&item)?)?;
        }
    }
    Ok(())
}

/// Roughly the bytes of a value, with what is in it as often as it is there; the largest number for a value that
/// nests too deep (or contains itself) or has too many items.
pub(super) fn size(value: &Value) -> usize {
    measure(value, ITEM_BYTES, 0, &mut MAX_ITEMS.clone()).unwrap_or(usize::MAX)
}

/// The bytes of texts in a value, and `item_bytes` for each item.
fn measure(value: &Value, item_bytes: usize, depth: usize, items_left: &mut usize) -> Option<usize> {
    if let Some(text) = value.as_str() {
        return Some(text.len());
    }
    // Functions and the like have no length; lists are charged for it before they are walked.
    let Some(length) = value.len() else { return Some(ITEM_BYTES) };
    *items_left = items_left.checked_sub(length)?;
    if depth == MAX_DEPTH {
        return None;
    }
    let is_map = value.kind() == ValueKind::Map;
    let mut bytes = item_bytes.checked_mul(length + 1)?;
    for item in value.try_iter().ok()? {
        bytes = bytes.checked_add(measure(&item, item_bytes, depth + 1, items_left)?)?;
        if let Some(inner) = is_map.then(|| value.get_item(&item).ok()).flatten() {
            bytes = bytes.checked_add(measure(&inner, item_bytes, depth + 1, items_left)?)?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod unit_tests {
    use std::sync::Arc;

    use super::*;
    use crate::template::environment;
    use crate::template::source::guarded;

    /// A value that knows how many hold it.
    #[derive(Debug)]
    struct Probe(#[allow(dead_code, reason = "held, to be counted")] Arc<()>);

    impl Object for Probe {}

    #[test]
    fn nothing_that_a_template_made_outlives_its_rendering() {
        let held = Arc::new(());
        for source in [
            "{% set a = namespace(p=probe) %}{% set a.x = a %}",
            "{% set a = namespace(p=probe) %}{% set a.x = [[a]] %}",
            "{% set a = namespace(p=probe) %}{% set b = namespace(a=a) %}{% set a.x = b %}",
            "{% set a = namespace(p=probe) %}{% set a.x = {'k': a} %}",
            "{% set a = namespace(p=probe) %}{% set a.x = [a, 1][1:] %}",
            "{% set a = namespace(p=probe) %}{% set a.x = [a] * 0 %}",
            "{% set a = namespace(p=probe) %}{% set a.x = [a] | zip([]) %}",
            "{% set a = namespace(p=probe) %}{% set a.x, b = a, 1 %}",
            "{% set a = namespace(p=probe) %}{% for i in [a] %}{% set a.x = loop %}{% endfor %}",
            "{% set a = namespace(p=probe) %}{% for i in [a] %}{% if loop.changed(loop) %}{% endif %}{% endfor %}",
            "{% set a = namespace(p=probe) %}{% macro f() %}{{ a }}{% endmacro %}{% set a.x = f %}",
        ] {
            let guarded = guarded(source, WHITESPACE);
            let context = [("probe", Value::from_object(Probe(Arc::clone(&held))))];
            // An error remembers values.
            drop(render(&environment::new(), "test", &guarded, context.into_iter().collect(), 1));
            assert_eq!(Arc::strong_count(&held), 1, "{source}");
        }
    }
}
