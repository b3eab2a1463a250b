//! The operators of templates, charged. The engine's own count as one instruction whatever they work on, so the
//! instructions of a compiled template are replaced by calls of the functions here, which take as many values off the
//! stack and put one back as they did.

use std::sync::LazyLock;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Expression, State, context};

use super::environment::python_text;
use super::limits::{
    CHANGED, CYCLE, HOLD, ITERATE, compared, cost, eager, holds_no_cycle, read, search, shallow_walk, size,
    spend, walk,
};
use super::source::MAX_CONSTANT_BYTES;

const CONCATENATE: &str = "__alti_concatenate";
const ADD: &str = "__alti_add";
const MULTIPLY: &str = "__alti_multiply";
const SLICE: &str = "__alti_slice";
const LIST: &str = "__alti_list";
const MAP: &str = "__alti_map";
const ITEM: &str = "__alti_item";
const IN: &str = "__alti_in";
const EQUAL: &str = "__alti_equal";
const UNEQUAL: &str = "__alti_unequal";
const LESS: &str = "__alti_less";
const LESS_OR_EQUAL: &str = "__alti_less_or_equal";
const GREATER: &str = "__alti_greater";
const GREATER_OR_EQUAL: &str = "__alti_greater_or_equal";

/// Flag of a loop that calls itself, in the engine's instruction.
const RECURSIVE_LOOP: u8 = 2;

/// Replaces operators by calls; returns the length of the longest text that one instruction prints.
///
/// # Errors
/// Names what no call can stand for: comparisons in a chain, arguments out of a list, loops that call themselves. No
/// chat template is known to have them.
pub(super) fn patch(instructions: &mut Instructions<'_>) -> Result<usize, Error> {
    let mut longest = 0;
    for at in 0.. {
        let line = instructions.get_line(at);
        let Some(instruction) = instructions.get_mut(at) else { break };
        if let Some(call) = replacement(instruction) {
            *instruction = call;
        }
        if let Instruction::LoadConst(value) = instruction {
            *value = settled(value);
        }
        let problem = match instruction {
            Instruction::CompareAndPreserve(_) => "comparisons in a chain, a < b < c; write a < b and b < c",
            Instruction::UnpackLists(_) | Instruction::MergeKwargs(_) => {
                "arguments out of a list or map, f(*x)"
            }
            Instruction::PushLoop(flags) if *flags & RECURSIVE_LOOP != 0 => "recursive loops; write a macro",
            Instruction::EmitRaw(text) => {
                longest = longest.max(text.len());
                continue;
            }
            _ => continue,
        };
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{place}not supported: {problem}")));
    }
    Ok(longest)
}

/// A constant with its lists as lists: a multiplied one is a rule that makes its items anew each time, ten times slower
/// to go through than the charge for it says. One that is too large to make stays a rule.
fn settled(value: &Value) -> Value {
    fn settle(value: &Value) -> Value {
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => match value.try_iter() {
                Ok(items) => items.map(|item| settle(&item)).collect(),
                Err(_) => value.clone(),
            },
            _ => value.clone(),
        }
    }
    if size(value) <= MAX_CONSTANT_BYTES { settle(value) } else { value.clone() }
}

/// The call that does what an instruction does.
fn replacement<'source>(instruction: &Instruction<'source>) -> Option<Instruction<'source>> {
    let (function, arguments) = match instruction {
        Instruction::StringConcat => (CONCATENATE, 2),
        Instruction::Add => (ADD, 2),
        Instruction::Mul => (MULTIPLY, 2),
        Instruction::Slice => (SLICE, 4),
        Instruction::GetItem => (ITEM, 2),
        Instruction::In => (IN, 2),
        Instruction::Eq => (EQUAL, 2),
        Instruction::Ne => (UNEQUAL, 2),
        Instruction::Lt => (LESS, 2),
        Instruction::Lte => (LESS_OR_EQUAL, 2),
        Instruction::Gt => (GREATER, 2),
        Instruction::Gte => (GREATER_OR_EQUAL, 2),
        Instruction::BuildList(Some(items)) => (LIST, u16::try_from(*items).ok()?),
        Instruction::BuildMap(pairs) => (MAP, u16::try_from(2 * *pairs).ok()?),
        Instruction::CallMethod("changed", arguments) => (CHANGED, (*arguments)?),
        Instruction::CallMethod("cycle", arguments) => (CYCLE, (*arguments)?),
        _ => return None,
    };
    Some(Instruction::CallFunction(function, Some(arguments)))
}

/// Puts the functions that stand for operators into an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    install_arithmetic(environment);
    install_comparisons(environment);
    install_loops(environment);
    environment.add_function(LIST, |state: &State, items: Rest<Value>| {
        spend(state, cost("list", &items))?;
        Ok(Value::from(items.0))
    });
    environment.add_function(MAP, |state: &State, items: Rest<Value>| {
        spend(state, cost("map", &items))?;
        Ok(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect::<Value>())
    });
    environment.add_function(ITEM, |state: &State, value: Value, key: Value| {
        // A text is gone through up to the index, a key is hashed.
        let texts = value.as_str().map_or(0, str::len).saturating_add(walk(&key));
        let counted = if value.kind() == ValueKind::Iterable { shallow_walk(&value) } else { 0 };
        read(state, texts.saturating_add(counted))?;
        value.get_item(&key)
    });
}

/// An expression of the engine, compiled once.
fn engine(source: &'static str) -> Expression<'static, 'static> {
    static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
    ENVIRONMENT.compile_expression(source).unwrap_or_else(|error| unreachable!("{source}: {error}"))
}

/// What evaluating an expression is charged, whatever is in it: it takes as long as going through so much text.
const EVALUATION_BYTES: usize = 2048;

/// Evaluates; the error is the template's, whose line the engine then adds.
fn evaluate(state: &State, expression: &Expression<'_, '_>, context: Value) -> Result<Value, Error> {
    read(state, EVALUATION_BYTES)?;
    expression.eval(context).map_err(|error| match error.detail() {
        Some(detail) => Error::new(error.kind(), detail.to_owned()),
        None => Error::from(error.kind()),
    })
}

/// What makes text and lists. Where no text is put together the work is left to the engine.
fn install_arithmetic(environment: &mut Environment<'static>) {
    static SUM: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| engine("left + right"));
    static PRODUCT: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| engine("left * right"));
    static SLICED: LazyLock<Expression<'static, 'static>> =
        LazyLock::new(|| engine("value[start:stop:step]"));
    environment.add_function(CONCATENATE, |state: &State, left: Value, right: Value| {
        let (left, right) = (python_text(state, &left)?, python_text(state, &right)?);
        spend(state, left.len().saturating_add(right.len()))?;
        Ok(Value::from([&*left, &*right].concat()))
    });
    environment.add_function(ADD, |state: &State, left: Value, right: Value| {
        spend(state, size(&left).saturating_add(size(&right)))?;
        match (left.as_str(), right.as_str()) {
            (Some(left), Some(right)) => Ok(Value::from([left, right].concat())),
            _ => eager(evaluate(state, &SUM, context! { left, right })?),
        }
    });
    environment.add_function(MULTIPLY, |state: &State, left: Value, right: Value| {
        let times = |count: &Value, value: &Value| count.as_usize().unwrap_or(1).saturating_mul(size(value));
        spend(state, times(&left, &right).max(times(&right, &left)))?;
        eager(evaluate(state, &PRODUCT, context! { left, right })?)
    });
    environment.add_function(SLICE, |state: &State, value: Value, start: Value, stop: Value, step: Value| {
        spend(state, size(&value))?;
        eager(evaluate(state, &SLICED, context! { value, start, stop, step })?)
    });
}

/// What compares, which takes as long as the smaller of two values is large.
fn install_comparisons(environment: &mut Environment<'static>) {
    type Compare = fn(&Value, &Value) -> bool;
    let comparisons: [(&'static str, Compare); 6] = [
        (EQUAL, |left, right| left == right),
        (UNEQUAL, |left, right| left != right),
        (LESS, |left, right| left < right),
        (LESS_OR_EQUAL, |left, right| left <= right),
        (GREATER, |left, right| left > right),
        (GREATER_OR_EQUAL, |left, right| left >= right),
    ];
    for (name, compare) in comparisons {
        environment.add_function(name, move |state: &State, left: Value, right: Value| {
            read(state, compared(&left, &right))?;
            Ok(compare(&left, &right))
        });
    }
    static CONTAINED: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| engine("value in container"));
    environment.add_function(IN, |state: &State, value: Value, container: Value| {
        read(state, walk(&value))?;
        if let Some(text) = container.as_str() {
            read(state, search(text))?;
            let value = python_text(state, &value)?;
            return Ok(Value::from(text.contains(&*value)));
        }
        if container.kind() != ValueKind::Map {
            read(state, walk(&container))?;
        }
        evaluate(state, &CONTAINED, context! { value, container })
    });
}

/// What loops and namespaces do.
fn install_loops(environment: &mut Environment<'static>) {
    environment.add_function(ITERATE, |state: &State, value: Value| {
        read(state, shallow_walk(&value))?;
        Ok(value)
    });
    // Without cycles, everything that walks through a value comes to an end.
    environment.add_function(HOLD, |state: &State, value: Value| {
        read(state, walk(&value))?;
        holds_no_cycle(&value).map(|()| value)
    });
    for (name, method) in [(CHANGED, "changed"), (CYCLE, "cycle")] {
        environment.add_function(name, move |state: &State, arguments: Rest<Value>| {
            let [object, values @ ..] = &arguments.0[..] else { return Ok(Value::UNDEFINED) };
            if values.is_empty() {
                let problem = format!("{method}() needs a value");
                return Err(Error::new(ErrorKind::MissingArgument, problem));
            }
            for value in values {
                read(state, walk(value))?;
                holds_no_cycle(value)?;
            }
            object.call_method(state, method, values)
        });
    }
}
