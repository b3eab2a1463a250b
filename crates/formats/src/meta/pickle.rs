//! A restricted unpickler. Pickle is a program for a stack machine that can name any Python
//! function; this machine knows the instructions that `torch.save` emits for a dictionary of
//! tensors and can build nothing but dictionaries, lists, tuples, numbers, strings and tensors. Any
//! other global is refused by name.
//!
//! Values live in one list and refer to each other by index: no recursion, so that neither cycles
//! nor depth can harm. An instruction makes at most one value of fixed size and copies no text but a
//! storage's short key; tensors are shared, not copied, and no name may come twice, so that all
//! names together are no longer than the pickle. Memory is therefore bounded by the pickle's length,
//! which is capped.

use crate::error::shown;
use alti_tensor::DType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Longest pickle, in bytes; the largest released checkpoint has a fifth of it.
pub(super) const MAX_PICKLE: usize = 1 << 20;
/// Objects that a pickle may make, and values that it may remember. Released checkpoints make some
/// ten objects for each of a few thousand tensors.
const MAX_OBJECTS: usize = 1 << 17;
/// Tensors that a pickle may list.
const MAX_TENSORS: usize = 1 << 15;
/// Longest name of a tensor, in bytes.
const MAX_NAME: usize = 4096;
/// Longest key of a storage, in bytes: torch.save numbers them.
const MAX_STORAGE_KEY: usize = 64;
/// Dimensions of a tensor at most.
const MAX_DIMENSIONS: usize = 8;

/// A tensor as the pickle describes it: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// The type of the storage's elements; `None` where it is none that weights have.
    pub(super) dtype: Option<DType>,
    /// Python's name of the storage's class.
    pub(super) storage_class: &'static str,
    /// The storage's key: its entry is `data/KEY`.
    pub(super) key: String,
    /// Elements of the storage.
    pub(super) count: usize,
    /// The first element of the view.
    pub(super) offset: usize,
    /// Size of each dimension.
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub(super) strides: Vec<usize>,
}

/// Where in the pickle something is wrong, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PickleError {
    pub(super) at: usize,
    pub(super) problem: String,
}

type Result<T> = std::result::Result<T, PickleError>;

/// What the program may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str, Option<DType>),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        const STORAGES: [(&str, Option<DType>); 10] = [
            ("FloatStorage", Some(DType::F32)),
            ("HalfStorage", Some(DType::F16)),
            ("BFloat16Storage", Some(DType::BF16)),
            ("DoubleStorage", None),
            ("LongStorage", None),
            ("IntStorage", None),
            ("ShortStorage", None),
            ("CharStorage", None),
            ("ByteStorage", None),
            ("BoolStorage", None),
        ];
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", name) => {
                let known = STORAGES.iter().find(|(known, _)| *known == name)?;
                Some(Self::Storage(known.0, known.1))
            }
            _ => None,
        }
    }
}

/// A value: small ones as they are, text by its place in the pickle, others by index.
#[derive(Clone, Copy, Debug)]
enum Value {
    Nothing,
    Bool,
    Int(i64),
    Text {
        start: usize,
        length: usize,
    },
    Global(Global),
    Object(usize),
    Mark,
    /// Bytes and floats, which no tensor needs.
    Other,
}

#[derive(Debug)]
enum Object {
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage { class: &'static str, dtype: Option<DType>, key: Value, count: usize },
    Tensor(Arc<PickledTensor>),
}

struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
}

/// Runs a pickle that makes a dictionary of tensors, and returns them by name, in its order.
/// Entries that are no tensors (the extra state of some layers) are left out.
pub(super) fn tensors(program: &[u8]) -> Result<Vec<(String, Arc<PickledTensor>)>> {
    if program.len() > MAX_PICKLE {
        let problem = format!("a pickle of {} bytes, longer than {MAX_PICKLE}", program.len());
        return Err(PickleError { at: 0, problem });
    }
    let mut machine =
        Machine { program, at: 0, stack: Vec::new(), memo: HashMap::new(), objects: Vec::new() };
    let result = machine.run()?;
    let Some(Object::Dict(entries)) = machine.object(result) else {
        return machine.fail("the pickle is not a dictionary of tensors");
    };
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for &(key, value) in entries {
        let name = machine.name(key)?;
        if tensors.len() == MAX_TENSORS {
            return machine.fail(format!("more than {MAX_TENSORS} tensors"));
        }
        if !names.insert(name) {
            return machine.fail(format!("{} is there twice", shown(name)));
        }
        match machine.object(value) {
            Some(Object::Tensor(tensor)) => tensors.push((name.to_owned(), Arc::clone(tensor))),
            Some(Object::Dict(_)) => {
                return machine
                    .fail(format!("{} is a dictionary, not a tensor (a training checkpoint?)", shown(name)));
            }
            _ => {}
        }
    }
    Ok(tensors)
}

impl<'a> Machine<'a> {
    fn fail<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(PickleError { at: self.at, problem: problem.into() })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.program.get(self.at..).and_then(|left| left.get(..length)) {
            Some(bytes) => {
                self.at += length;
                Ok(bytes)
            }
            None => self.fail("the pickle ends within an instruction"),
        }
    }

    fn unsigned(&mut self, length: usize) -> Result<u64> {
        Ok(self.take(length)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn pop(&mut self) -> Result<Value> {
        match self.stack.pop() {
            Some(Value::Mark) | None => self.fail("the pickle takes a value where there is none"),
            Some(value) => Ok(value),
        }
    }

    /// The values above the topmost mark, which goes too.
    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        match self.stack.iter().rposition(|value| matches!(value, Value::Mark)) {
            Some(mark) => {
                let values = self.stack.split_off(mark + 1);
                self.stack.pop();
                Ok(values)
            }
            None => self.fail("the pickle looks for a mark where there is none"),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut values = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        values.reverse();
        Ok(values)
    }

    fn push_object(&mut self, object: Object) -> Result<()> {
        if self.objects.len() == MAX_OBJECTS {
            return self.fail(format!("more than {MAX_OBJECTS} objects"));
        }
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
        Ok(())
    }

    fn push_text(&mut self, length: u64) -> Result<()> {
        let start = self.at;
        let Ok(length) = usize::try_from(length) else { return self.fail("a string of absurd length") };
        if std::str::from_utf8(self.take(length)?).is_err() {
            return self.fail("a string is not UTF-8 text");
        }
        self.stack.push(Value::Text { start, length });
        Ok(())
    }

    fn skip_bytes(&mut self, length: u64) -> Result<()> {
        let Ok(length) = usize::try_from(length) else { return self.fail("bytes of absurd length") };
        self.take(length)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text { start, length } => std::str::from_utf8(&self.program[start..start + length]).ok(),
            _ => None,
        }
    }

    /// A dictionary's key, the name of a tensor.
    fn name(&self, key: Value) -> Result<&'a str> {
        match key {
            Value::Text { length, .. } if length > MAX_NAME => {
                self.fail(format!("a key of {length} bytes, longer than {MAX_NAME}"))
            }
            _ => self.text(key).map_or_else(|| self.fail("a key is not a string"), Ok),
        }
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    fn tuple(&self, value: Value) -> Result<&[Value]> {
        match self.object(value) {
            Some(Object::Tuple(values)) => Ok(values),
            _ => self.fail("a value is not a tuple where one is wanted"),
        }
    }

    fn size(&self, value: Value) -> Result<usize> {
        match value {
            Value::Int(number) if number >= 0 => Ok(number as usize),
            _ => self.fail("a size is not a whole number"),
        }
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>> {
        let values = self.tuple(value)?;
        if values.len() > MAX_DIMENSIONS {
            return self.fail(format!("a tensor of {} dimensions", values.len()));
        }
        values.iter().map(|&value| self.size(value)).collect()
    }

    fn line(&mut self) -> Result<&'a str> {
        let left = &self.program[self.at..];
        let end = left.iter().position(|&byte| byte == b'\n');
        match end.and_then(|end| std::str::from_utf8(&left[..end]).ok()) {
            Some(line) => {
                self.at += line.len() + 1;
                Ok(line)
            }
            None => self.fail("a name without an end"),
        }
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// One instruction; names as in Python's `pickletools`.
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.stack.push(Value::Mark),
            b'0' => drop(self.pop()?),
            b'N' => self.stack.push(Value::Nothing),
            0x88 | 0x89 => self.stack.push(Value::Bool), // NEWTRUE, NEWFALSE
            b'K' => self.push_unsigned(1)?,
            b'M' => self.push_unsigned(2)?,
            b'J' => {
                let value = self.unsigned(4)? as u32 as i32;
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => self.skip_bytes(8)?, // BINFLOAT
            b'X' => self.counted(4, Self::push_text)?,
            0x8c => self.counted(1, Self::push_text)?, // SHORT_BINUNICODE
            b'C' => self.counted(1, Self::skip_bytes)?, // SHORT_BINBYTES
            b'B' => self.counted(4, Self::skip_bytes)?,
            b'}' => self.push_object(Object::Dict(Vec::new()))?,
            b']' => self.push_object(Object::List(Vec::new()))?,
            b')' => self.push_object(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let values = self.pop_many(usize::from(opcode - 0x84))?;
                self.push_object(Object::Tuple(values))?;
            }
            b't' => {
                let values = self.pop_to_mark()?;
                self.push_object(Object::Tuple(values))?;
            }
            b'q' => self.memoize(1)?,
            b'r' => self.memoize(4)?,
            0x94 => self.remember(self.memo.len() as u32)?, // MEMOIZE
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let pairs = self.pop_to_mark()?;
                self.set_items(&pairs)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append(&[value])?;
            }
            b'e' => {
                let values = self.pop_to_mark()?;
                self.append(&values)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                match (self.text(names[0]), self.text(names[1])) {
                    (Some(module), Some(name)) => self.push_global(module, name)?,
                    _ => return self.fail("a global without a name"),
                }
            }
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            // BUILD: the attributes of an OrderedDict (a module's version numbers).
            b'b' => drop(self.pop()?),
            _ => {
                self.at -= 1;
                return self
                    .fail(format!("pickle instruction 0x{opcode:02x}, which torch.save does not write"));
            }
        }
        Ok(())
    }

    fn counted(&mut self, width: usize, then: impl Fn(&mut Self, u64) -> Result<()>) -> Result<()> {
        let length = self.unsigned(width)?;
        then(self, length)
    }

    fn push_unsigned(&mut self, width: usize) -> Result<()> {
        let value = self.unsigned(width)? as i64;
        self.stack.push(Value::Int(value));
        Ok(())
    }

    /// LONG1: a little-endian two's complement number.
    fn long(&mut self) -> Result<()> {
        let width = self.unsigned(1)? as usize;
        if width > 8 {
            return self.fail("a number of more than 64 bits");
        }
        let raw = self.unsigned(width)? as i64;
        let shift = 64 - 8 * width as u32;
        let value = if width == 0 { 0 } else { (raw << shift) >> shift };
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn memoize(&mut self, width: usize) -> Result<()> {
        let slot = self.unsigned(width)? as u32;
        self.remember(slot)
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        match self.stack.last() {
            Some(&value) if !matches!(value, Value::Mark) => {
                if self.memo.len() == MAX_OBJECTS {
                    return self.fail(format!("remembers more than {MAX_OBJECTS} values"));
                }
                self.memo.insert(slot, value);
                Ok(())
            }
            _ => self.fail("the pickle remembers a value where there is none"),
        }
    }

    fn recall(&mut self, width: usize) -> Result<()> {
        let slot = self.unsigned(width)? as u32;
        match self.memo.get(&slot) {
            Some(&value) => {
                self.stack.push(value);
                Ok(())
            }
            None => self.fail(format!("the pickle recalls value {slot}, which it did not remember")),
        }
    }

    /// The object on top of the stack, to be changed.
    fn top(&mut self) -> Option<&mut Object> {
        match self.stack.last() {
            Some(&Value::Object(index)) => self.objects.get_mut(index),
            _ => None,
        }
    }

    fn set_items(&mut self, pairs: &[Value]) -> Result<()> {
        let (pairs, rest) = pairs.as_chunks::<2>();
        match self.top() {
            Some(Object::Dict(entries)) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => self.fail("items for something that is not a dictionary"),
        }
    }

    fn append(&mut self, values: &[Value]) -> Result<()> {
        match self.top() {
            Some(Object::List(list)) => {
                list.extend(values);
                Ok(())
            }
            _ => self.fail("elements for something that is not a list"),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::named(module, name) {
            Some(global) => {
                self.stack.push(Value::Global(global));
                Ok(())
            }
            None => self.fail(format!(
                "the pickle wants to use {}.{}; only tensors are read",
                shown(module),
                shown(name)
            )),
        }
    }

    /// BINPERSID: `("storage", class, key, device, elements)` is a storage.
    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        let &[kind, class, key, _device, count] = self.tuple(id)? else {
            return self.fail("a persistent id that is not of five parts");
        };
        match (self.text(kind), class, self.text(key).map(str::len)) {
            (Some("storage"), Value::Global(Global::Storage(class, dtype)), Some(..=MAX_STORAGE_KEY)) => {
                let count = self.size(count)?;
                self.push_object(Object::Storage { class, dtype, key, count })
            }
            _ => self.fail("a persistent id that is not a storage"),
        }
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        match (callable, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_object(Object::Dict(Vec::new())),
            (Value::Global(Global::RebuildParameter), &[tensor, ..]) => {
                self.stack.push(tensor);
                Ok(())
            }
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                let tensor = self.rebuild_tensor(storage, offset, shape, strides)?;
                self.push_object(Object::Tensor(Arc::new(tensor)))
            }
            _ => self.fail("the pickle calls something that cannot be called in that way"),
        }
    }

    fn rebuild_tensor(
        &self,
        storage: Value,
        offset: Value,
        shape: Value,
        strides: Value,
    ) -> Result<PickledTensor> {
        let Some(&Object::Storage { class, dtype, key, count }) = self.object(storage) else {
            return self.fail("a tensor without a storage");
        };
        let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() || !fits(count, offset, &shape, &strides) {
            let problem = format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} in a storage of {count} elements"
            );
            return self.fail(problem);
        }
        let key = self.text(key).unwrap_or_default().to_owned();
        Ok(PickledTensor { dtype, storage_class: class, key, count, offset, shape, strides })
    }
}

/// Whether every element of the view is in the storage, and there are no more of them than the
/// storage has (a stride of zero could make a huge tensor of one number).
fn fits(count: usize, offset: usize, shape: &[usize], strides: &[usize]) -> bool {
    let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let last = shape.iter().zip(strides).try_fold(offset, |last, (&size, &stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
    });
    match (elements, last) {
        // Nothing is nowhere: what a place of no elements says must not enter into sums.
        (Some(0), _) => offset <= count && shape.iter().all(|&size| size <= count),
        (Some(elements), Some(last)) => elements <= count && last < count,
        _ => false,
    }
}
