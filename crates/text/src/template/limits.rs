//! What a template may take. Templates come with downloaded models, so one must neither run forever nor fill memory;
//! the engine counts instructions but not bytes, and forty instructions that double a text are a terabyte.
//!
//! So every operation that makes text or lists is charged before it runs against a budget of bytes: the operators
//! `~`, `+` and `*` (their instructions are replaced by calls of the functions here), the filters and methods that
//! copy or grow their input, and all that is printed. Text that stands in the template itself is printed without a
//! charge, which the number of instructions bounds.

use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Vm, WhitespaceConfig, make_string_output,
};
use minijinja::value::{Object, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, context, filters, functions};

use super::environment::python_text;

/// Bytes one rendering may make in all, besides a multiple of what it is given (a template that builds its prompt by
/// appending copies it once for each message).
const BYTES: usize = 32 << 20;
const COPIES_OF_CONTEXT: usize = 64;
/// Instructions one rendering may take in all, and for each message.
const INSTRUCTIONS: u64 = 2_000_000;
const INSTRUCTIONS_PER_MESSAGE: u64 = 10_000;
/// Bytes of the template's own text that all instructions together could print, in all and for each message.
const PRINTED_BYTES: u64 = 48 << 20;
const PRINTED_BYTES_PER_MESSAGE: u64 = 512 << 10;
/// What an item of a list is charged.
const ITEM_BYTES: usize = 32;

const METER: &str = "__alti_meter";
const CONCATENATE: &str = "__alti_concatenate";
const ADD: &str = "__alti_add";
const MULTIPLY: &str = "__alti_multiply";
const SLICE: &str = "__alti_slice";
const LIST: &str = "__alti_list";
const MAP: &str = "__alti_map";

/// Values may nest this deep: printing, comparing and freeing them recurses.
const MAX_DEPTH: usize = 100;
/// Items a value may have, counted as often as they are reached.
const MAX_ITEMS: usize = 1_000_000;

/// What is left of a rendering's bytes.
#[derive(Debug)]
struct Meter(AtomicUsize);

impl Object for Meter {}

/// Charges `bytes` to the rendering.
pub(super) fn spend(state: &State, bytes: usize) -> Result<(), Error> {
    let meter = state.lookup(METER);
    let Some(Meter(left)) = meter.as_ref().and_then(|meter| meter.downcast_object_ref()) else {
        return Ok(());
    };
    let paid = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
    paid.map(drop).map_err(|_| Error::new(ErrorKind::InvalidOperation, "it takes too much memory"))
}

/// Compiles and runs a template for a conversation of so many messages.
pub(super) fn render(
    environment: &Environment<'_>,
    name: &str,
    source: &str,
    context: Value,
    messages: usize,
) -> Result<String, Error> {
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config: WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true },
        default_auto_escape: std::sync::Arc::new(|_| AutoEscape::None),
    };
    let mut environment = environment.clone();
    let mut compiled = CompiledTemplate::new(name, source, &config)?;
    let longest =
        std::iter::once(&mut compiled.instructions).chain(compiled.blocks.values_mut()).map(patch).max();
    let scaled = |base: u64, each: u64| base.saturating_add(each.saturating_mul(messages as u64));
    let printing = scaled(PRINTED_BYTES, PRINTED_BYTES_PER_MESSAGE) / longest.unwrap_or(0).max(1) as u64;
    let instructions = scaled(INSTRUCTIONS, INSTRUCTIONS_PER_MESSAGE);
    environment.set_fuel(Some(instructions.min(printing)));
    let bytes = BYTES.saturating_add(size(&context).saturating_mul(messages.max(COPIES_OF_CONTEXT)));
    let meter = Value::from_object(Meter(AtomicUsize::new(bytes)));
    environment.add_global(METER, meter);
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

/// Replaces the operators by calls, which take as many values off the stack and put one back as they did; returns
/// the length of the longest text that one instruction prints.
fn patch(instructions: &mut Instructions<'_>) -> usize {
    let mut longest = 0;
    for at in 0.. {
        let Some(instruction) = instructions.get_mut(at) else { break };
        match instruction {
            Instruction::StringConcat => *instruction = Instruction::CallFunction(CONCATENATE, Some(2)),
            Instruction::Add => *instruction = Instruction::CallFunction(ADD, Some(2)),
            Instruction::Mul => *instruction = Instruction::CallFunction(MULTIPLY, Some(2)),
            Instruction::Slice => *instruction = Instruction::CallFunction(SLICE, Some(4)),
            Instruction::BuildList(Some(items)) if let Ok(items) = u16::try_from(*items) => {
                *instruction = Instruction::CallFunction(LIST, Some(items));
            }
            Instruction::BuildMap(pairs) if let Ok(items) = u16::try_from(2 * *pairs) => {
                *instruction = Instruction::CallFunction(MAP, Some(items));
            }
            Instruction::EmitRaw(text) => longest = longest.max(text.len()),
            _ => {}
        }
    }
    longest
}

/// Puts what charges into an environment, in place of what does not.
pub(super) fn install(environment: &mut Environment<'static>) {
    install_operators(environment);
    install_filters(environment);
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
        spend(state, cost(method, &charged))?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
}

/// The functions that instructions were replaced by. Those without text to put together leave the work to the engine.
fn install_operators(environment: &mut Environment<'static>) {
    environment.add_function(CONCATENATE, |state: &State, left: Value, right: Value| {
        spend(state, size(&left).saturating_add(size(&right)))?;
        Ok(Value::from(python_text(&left) + &python_text(&right)))
    });
    environment.add_function(ADD, |state: &State, left: Value, right: Value| {
        spend(state, size(&left).saturating_add(size(&right)))?;
        match (left.as_str(), right.as_str()) {
            (Some(left), Some(right)) => Ok(Value::from([left, right].concat())),
            _ => state.env().compile_expression("left + right")?.eval(context! { left, right }),
        }
    });
    environment.add_function(MULTIPLY, |state: &State, left: Value, right: Value| {
        let times = |count: &Value, value: &Value| count.as_usize().unwrap_or(1).saturating_mul(size(value));
        spend(state, times(&left, &right).max(times(&right, &left)))?;
        state.env().compile_expression("left * right")?.eval(context! { left, right })
    });
    environment.add_function(SLICE, |state: &State, value: Value, start: Value, stop: Value, step: Value| {
        spend(state, size(&value))?;
        state.env().compile_expression("value[start:stop:step]")?.eval(context! { value, start, stop, step })
    });
    environment.add_function(LIST, |state: &State, items: Rest<Value>| {
        spend(state, cost("list", &items))?;
        Ok(Value::from(items.0))
    });
    environment.add_function(MAP, |state: &State, items: Rest<Value>| {
        spend(state, cost("map", &items))?;
        Ok(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect::<Value>())
    });
}

/// The engine's filters that copy or grow what they are given.
fn install_filters(environment: &mut Environment<'static>) {
    for (name, filter) in [
        ("batch", Value::from_function(filters::batch)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("chain", Value::from_function(filters::chain)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("format", Value::from_function(filters::format)),
        ("groupby", Value::from_function(filters::groupby)),
        ("indent", Value::from_function(filters::indent)),
        ("items", Value::from_function(filters::items)),
        ("join", Value::from_function(filters::join)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("replace", Value::from_function(filters::replace)),
        ("reverse", Value::from_function(filters::reverse)),
        ("slice", Value::from_function(filters::slice)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
        ("zip", Value::from_function(filters::zip)),
    ] {
        environment.add_filter(name, move |state: &State, arguments: Rest<Value>| {
            spend(state, cost(name, &arguments))?;
            filter.call(state, &arguments)
        });
    }
}

/// At least the bytes that a filter or method makes out of its arguments.
fn cost(name: &str, arguments: &[Value]) -> usize {
    let text = |at: usize| arguments.get(at).and_then(Value::as_str).unwrap_or_default();
    let number = |at: usize| arguments.get(at).and_then(Value::as_usize).unwrap_or(0);
    let copy = arguments.iter().map(size).fold(0, usize::saturating_add);
    let grown: usize = match name {
        "replace" => text(0).matches(text(1)).count().saturating_mul(text(2).len()),
        "join" => {
            let items = arguments.first().and_then(Value::len).unwrap_or(0);
            items.saturating_mul(arguments.get(1).map_or(0, size))
        }
        "indent" => text(0).lines().count().saturating_mul(largest_number(arguments)),
        "batch" | "slice" => number(1).saturating_mul(ITEM_BYTES),
        "format" => largest_digits(text(0)),
        _ => 0,
    };
    copy.saturating_add(grown)
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

/// Roughly the bytes of a value, with what is in it as often as it is there; the largest number for a value that
/// nests too deep (or contains itself) or has too many items.
pub(super) fn size(value: &Value) -> usize {
    measure(value, 0, &mut MAX_ITEMS.clone()).unwrap_or(usize::MAX)
}

fn measure(value: &Value, depth: usize, items_left: &mut usize) -> Option<usize> {
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
    let mut bytes = ITEM_BYTES.checked_mul(length + 1)?;
    for item in value.try_iter().ok()? {
        bytes = bytes.checked_add(measure(&item, depth + 1, items_left)?)?;
        if let Some(inner) = is_map.then(|| value.get_item(&item).ok()).flatten() {
            bytes = bytes.checked_add(measure(&inner, depth + 1, items_left)?)?;
        }
    }
    Some(bytes)
}
