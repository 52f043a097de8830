// SPDX-License-Identifier: MPL-2.0
//! The stack machine that reads a pickle: it knows the steps and the names that tensors need, and ends at any other.
//!
//! Upstream: Python's `pickletools.py`, `torch/_utils.py`.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use tch::Kind;

use super::{Checked, View};

/// The most bytes of one pickle: far more than the names of any network's tensors take.
const MAX_PICKLE: usize = 64 << 20;
/// Where trainers put a network's tensors, the best first.
const STATE_DICTS: [&str; 4] = ["params_ema", "params", "state_dict", "model_state_dict"];

/// What a pickle's stack holds. Whatever has parts is in the machine, by number, so that no depth of nesting makes
/// anything recurse.
#[derive(Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float,
    Text(Rc<str>),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Function(Function),
    StorageType(Kind),
    Storage(usize),
    Tensor(usize),
}

/// The functions that may be called, and are carried out here.
#[derive(Clone, Copy)]
pub(super) enum Function {
    OrderedDict,
    Counter,
    RebuildTensor,
    RebuildParameter,
}

/// A storage that a pickle refers to.
pub(super) struct Storage {
    pub(super) kind: Kind,
    pub(super) key: Rc<str>,
    /// The part of it that is meant: very old files have views of storages.
    first: i64,
    count: i64,
}

/// A tensor as a pickle describes it, unchecked.
struct Described {
    storage: usize,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// The stack machine for one pickle.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    limit: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    pub(super) lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    pub(super) storages: Vec<Storage>,
    tensors: Vec<Described>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self::starting(bytes, 0)
    }

    fn starting(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            limit: bytes.len().min(at + MAX_PICKLE),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            lists: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A machine for the pickle behind this one's.
    pub(super) fn following(&self) -> Self {
        Self::starting(self.bytes, self.at)
    }

    /// Runs to the pickle's end and gives its value.
    pub(super) fn run(&mut self) -> Checked<Value> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                // PROTO
                0x80 => {
                    let version = self.take(1)?[0];
                    if version > 2 {
                        return Err(format!("a pickle of protocol {version}, and torch.save writes protocol 2"));
                    }
                }
                // STOP
                b'.' => return self.pop(),
                // MARK
                b'(' => self.marks.push(self.stack.len()),
                // EMPTY_DICT
                b'}' => {
                    let dict = self.dict();
                    self.stack.push(dict);
                }
                // EMPTY_LIST, EMPTY_SET
                b']' | 0x8f => {
                    let list = self.list(Vec::new());
                    self.stack.push(Value::List(list));
                }
                // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3
                b')' => self.tuple(self.stack.len())?,
                0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    self.tuple(self.stack.len().checked_sub(count).ok_or("the pickle's stack is empty")?)?;
                }
                // TUPLE
                b't' => {
                    let first = self.mark()?;
                    self.tuple(first)?;
                }
                // NONE, NEWTRUE, NEWFALSE
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                // BININT, BININT1, BININT2
                b'J' => {
                    let number = self.word()? as u32 as i32;
                    self.stack.push(Value::Int(number.into()));
                }
                b'K' => {
                    let number = self.take(1)?[0];
                    self.stack.push(Value::Int(number.into()));
                }
                b'M' => {
                    let bytes = self.take(2)?;
                    self.stack.push(Value::Int(u16::from_le_bytes([bytes[0], bytes[1]]).into()));
                }
                // LONG1, LONG4
                0x8a => {
                    let length = self.take(1)?[0].into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.word()?;
                    self.long(length)?;
                }
                // BINFLOAT
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Float);
                }
                // BINUNICODE, BINSTRING, SHORT_BINSTRING
                b'X' | b'T' => {
                    let length = self.word()?;
                    self.text(length)?;
                }
                b'U' => {
                    let length = self.take(1)?[0].into();
                    self.text(length)?;
                }
                // BINPUT, LONG_BINPUT
                b'q' => {
                    let index = self.take(1)?[0].into();
                    self.memo.insert(index, self.top()?.clone());
                }
                b'r' => {
                    let index = self.word()?;
                    self.memo.insert(index, self.top()?.clone());
                }
                // BINGET, LONG_BINGET
                b'h' => {
                    let index = self.take(1)?[0].into();
                    self.recall(index)?;
                }
                b'j' => {
                    let index = self.word()?;
                    self.recall(index)?;
                }
                // GLOBAL
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let global = global(module, name)?;
                    self.stack.push(global);
                }
                // BINPERSID
                b'Q' => {
                    let reference = self.pop()?;
                    let storage = self.storage(&reference).ok_or("a reference to a storage that is none")?;
                    self.storages.push(storage);
                    self.stack.push(Value::Storage(self.storages.len() - 1));
                }
                // REDUCE
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let result = self.call(&function, &arguments)?;
                    self.stack.push(result);
                }
                // BUILD: the attributes of an OrderedDict, which tell nothing about tensors.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.top()?, Value::Dict(_)) {
                        return Err("the pickle sets the attributes of what is no dictionary".into());
                    }
                }
                // SETITEM, SETITEMS
                b's' => self.set_items(self.stack.len().checked_sub(2).ok_or("the pickle's stack is empty")?)?,
                b'u' => {
                    let first = self.mark()?;
                    self.set_items(first)?;
                }
                // APPEND, APPENDS, ADDITEMS
                b'a' => self.append(self.stack.len().checked_sub(1).ok_or("the pickle's stack is empty")?)?,
                b'e' | 0x90 => {
                    let first = self.mark()?;
                    self.append(first)?;
                }
                _ => return Err(format!("its pickle has the opcode {opcode:#04x}, which no tensors need")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Checked<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.limit);
        let end = end.ok_or("its pickle ends too early or is far too long")?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn word(&mut self) -> Checked<usize> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    }

    fn line(&mut self) -> Checked<&'a str> {
        let rest = &self.bytes[self.at..self.limit];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle ends too early")?;
        let line = &self.take(length + 1)?[..length];
        std::str::from_utf8(line).map_err(|_| "its pickle holds a name that is no text".into())
    }

    fn text(&mut self, length: usize) -> Checked<()> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "its pickle holds a text that is not UTF-8")?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn long(&mut self, length: usize) -> Checked<()> {
        let bytes = self.take(length)?;
        let mut number = [if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 }; 16];
        number.get_mut(..length).ok_or("its pickle holds a number of more than 128 bits")?.copy_from_slice(bytes);
        self.stack.push(Value::Int(i128::from_le_bytes(number)));
        Ok(())
    }

    fn top(&self) -> Checked<&Value> {
        self.stack.last().ok_or_else(|| "the pickle's stack is empty".into())
    }

    fn pop(&mut self) -> Checked<Value> {
        self.stack.pop().ok_or_else(|| "the pickle's stack is empty".into())
    }

    fn mark(&mut self) -> Checked<usize> {
        self.marks
            .pop()
            .filter(|&mark| mark <= self.stack.len())
            .ok_or_else(|| "the pickle goes back to a mark that it never set".into())
    }

    fn recall(&mut self, index: usize) -> Checked<()> {
        let value = self.memo.get(&index).ok_or("the pickle recalls what it never stored")?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn list(&mut self, values: Vec<Value>) -> usize {
        self.lists.push(values);
        self.lists.len() - 1
    }

    fn dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    fn tuple(&mut self, first: usize) -> Checked<()> {
        let values = self.stack.split_off(first);
        let tuple = self.list(values);
        self.stack.push(Value::Tuple(tuple));
        Ok(())
    }

    fn set_items(&mut self, first: usize) -> Checked<()> {
        let mut values = self.stack.split_off(first).into_iter();
        let Value::Dict(dict) = *self.top()? else { return Err("the pickle fills what is no dictionary".into()) };
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            self.dicts[dict].push((key, value));
        }
        Ok(())
    }

    fn append(&mut self, first: usize) -> Checked<()> {
        let values = self.stack.split_off(first);
        let Value::List(list) = *self.top()? else { return Err("the pickle appends to what is no list".into()) };
        self.lists[list].extend(values);
        Ok(())
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Checked<Value> {
        let (Value::Function(function), Value::Tuple(arguments)) = (function, arguments) else {
            return Err("the pickle calls what is no function".into());
        };
        let arguments = &self.lists[*arguments];
        match (function, arguments.as_slice()) {
            (Function::OrderedDict, []) => Ok(self.dict()),
            // What is counted is no tensor.
            (Function::Counter, [] | [Value::Dict(_)]) => Ok(self.dict()),
            (Function::RebuildParameter, [Value::Tensor(tensor), ..]) => Ok(Value::Tensor(*tensor)),
            (Function::RebuildTensor, [Value::Storage(storage), offset, shape, strides, ..]) => {
                let described = || {
                    let (offset, shape, strides) = (integer(offset)?, self.integers(shape)?, self.integers(strides)?);
                    Some(Described { storage: *storage, offset, shape, strides })
                };
                let described = described().ok_or("a tensor's place in its storage is not made of numbers")?;
                self.tensors.push(described);
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            _ => Err("the pickle makes a tensor or a dictionary in an unknown way".into()),
        }
    }

    fn integers(&self, tuple: &Value) -> Option<Vec<i64>> {
        let Value::Tuple(tuple) = tuple else { return None };
        self.lists[*tuple].iter().map(integer).collect()
    }

    /// ('storage', type, key, place, count), in the older container with a sixth part: None, or a view's (key, first,
    /// count).
    fn storage(&self, reference: &Value) -> Option<Storage> {
        let Value::Tuple(parts) = reference else { return None };
        let [Value::Text(word), Value::StorageType(kind), Value::Text(key), _, count, view @ ..] =
            self.lists[*parts].as_slice()
        else {
            return None;
        };
        let (first, count) = match view {
            [] | [Value::None] => (0, integer(count)?),
            [Value::Tuple(view)] => match self.lists[*view].as_slice() {
                [_, first, count] => (integer(first)?, integer(count)?),
                _ => return None,
            },
            _ => return None,
        };
        (**word == *"storage").then(|| Storage { kind: *kind, key: key.clone(), first, count })
    }

    /// The value for `key` in a dictionary; the last, if the key is there twice.
    pub(super) fn entry(&self, dict: &Value, key: &str) -> Option<&Value> {
        let Value::Dict(dict) = dict else { return None };
        let is_key = |(name, _): &&(Value, Value)| matches!(name, Value::Text(name) if **name == *key);
        self.dicts[*dict].iter().rev().find(is_key).map(|(_, value)| value)
    }

    /// The state dict in a checkpoint's content; `place` tells where the bytes of a storage are.
    pub(super) fn state_dict(
        &self,
        content: &Value,
        place: impl Fn(&str) -> Checked<Range<usize>>,
    ) -> Checked<Vec<(String, View)>> {
        let dict = STATE_DICTS.iter().find_map(|key| self.entry(content, key)).unwrap_or(content);
        let Value::Dict(dict) = dict else { return Err("it holds no dictionary of tensors".into()) };
        let mut tensors = Vec::new();
        for (name, value) in &self.dicts[*dict] {
            let (Value::Text(name), Value::Tensor(tensor)) = (name, value) else { continue };
            let view = self.view(&self.tensors[*tensor], &place).map_err(|err| format!("the tensor {name}: {err}"))?;
            tensors.push((name.to_string(), view));
        }
        if tensors.is_empty() {
            let names = self.dicts[*dict].iter().filter_map(|(name, _)| match name {
                Value::Text(name) => Some(&**name),
                _ => None,
            });
            let names: Vec<_> = names.take(8).collect();
            if names.iter().any(|name| name.starts_with("optimizer") || *name == "param_groups") {
                return Err(format!(
                    "the state of a training ({}), with which it goes on, and not the network: that is in another file",
                    names.join(", ")
                ));
            }
            let places = STATE_DICTS.join(", ");
            return Err(format!("it holds no tensors under {places} or by themselves, but {names:?}"));
        }
        Ok(tensors)
    }

    /// Checks a tensor against its storage, and that against the file.
    fn view(&self, tensor: &Described, place: impl Fn(&str) -> Checked<Range<usize>>) -> Checked<View> {
        let storage = &self.storages[tensor.storage];
        let bytes = place(&storage.key)?;
        let held = (bytes.len() / storage.kind.elt_size_in_bytes()) as i64;
        // Within the storage as it is described, and that within the file.
        let last = storage
            .first
            .checked_add(storage.count)
            .filter(|&last| storage.first >= 0 && storage.count >= 0 && last <= held);
        let last =
            last.ok_or_else(|| format!("its storage is said to be longer than the {held} numbers that are there"))?;
        let outside = || {
            let Described { offset, shape, strides, .. } = tensor;
            format!("shape {shape:?}, strides {strides:?} and offset {offset} reach beyond its storage")
        };
        let span = || {
            let Described { offset, shape, strides, .. } = tensor;
            if shape.len() != strides.len() || shape.iter().chain(strides).any(|&n| n < 0) || *offset < 0 {
                return None;
            }
            let first = storage.first.checked_add(*offset)?;
            let count = shape.iter().try_fold(1i64, |count, &side| count.checked_mul(side))?;
            let mut end = first;
            for (side, stride) in shape.iter().zip(strides) {
                end = end.checked_add((side - 1).max(0).checked_mul(*stride)?)?;
            }
            // One number of the file for each of the tensor's: none is repeated.
            let fits = if count == 0 { first <= last } else { end < last && count <= storage.count };
            fits.then_some(first)
        };
        Ok(View {
            kind: storage.kind,
            offset: span().ok_or_else(outside)?,
            bytes: bytes.start..bytes.start + held as usize * storage.kind.elt_size_in_bytes(),
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
        })
    }
}

/// The number, if it is one and fits.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => i64::try_from(*number).ok(),
        _ => None,
    }
}

/// The names that a checkpoint may use. Every other one is refused, and never looked up.
fn global(module: &str, name: &str) -> Checked<Value> {
    Ok(match (module, name) {
        ("collections", "Counter") => Value::Function(Function::Counter),
        ("collections", "OrderedDict") => Value::Function(Function::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Value::Function(Function::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Value::Function(Function::RebuildParameter),
        ("torch", "FloatStorage") => Value::StorageType(Kind::Float),
        ("torch", "HalfStorage") => Value::StorageType(Kind::Half),
        ("torch", "BFloat16Storage") => Value::StorageType(Kind::BFloat16),
        ("torch", "DoubleStorage") => Value::StorageType(Kind::Double),
        ("torch", "LongStorage") => Value::StorageType(Kind::Int64),
        ("torch", "IntStorage") => Value::StorageType(Kind::Int),
        ("torch", "ShortStorage") => Value::StorageType(Kind::Int16),
        ("torch", "CharStorage") => Value::StorageType(Kind::Int8),
        // Booleans are bytes of 0 and 1, which a file need not keep to.
        ("torch", "ByteStorage" | "BoolStorage") => Value::StorageType(Kind::Uint8),
        _ if module.starts_with("__torch__") => {
            return Err("a TorchScript program, and not a file of weights; nothing was run".into());
        }
        _ => {
            let global: String = format!("{module}.{name}").chars().filter(|c| !c.is_control()).take(100).collect();
            return Err(format!(
                "its pickle names {global}, which tensors don't need and which could run a program; nothing was run. \
                 Use a file with the weights alone"
            ));
        }
    })
}
