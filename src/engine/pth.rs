// SPDX-License-Identifier: MPL-2.0
//! Reads the tensors of a PyTorch checkpoint (`.pth`, what `torch.save` writes) without running it.
//!
//! Such a file is a pickle: a program for a small stack machine that may name any function and call it. This machine
//! knows only the steps and the names that tensors need and ends at the first other one. Both containers are read,
//! the zip archive (`torch.save` since PyTorch 1.6) and the row of pickles before it.
//!
//! Every place, size and stride in the file is checked against the file's bounds when it is opened.
//!
//! Upstream: `torch/serialization.py`, `torch/_utils.py`, Python's `pickletools.py`, PKWARE's APPNOTE.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use memmap2::Mmap;
use tch::{Kind, Tensor};

use super::{Error, Result};

/// The most bytes of one pickle: far more than the names of any network's tensors take.
const MAX_PICKLE: usize = 64 << 20;
/// The first pickle of the older container.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The second.
const LEGACY_VERSION: i128 = 1001;

/// What is wrong with a file; its path is added at the end.
type Checked<T> = Result<T, String>;

/// An opened checkpoint: the names, shapes and places of its tensors.
pub struct Checkpoint {
    path: PathBuf,
    file: Mmap,
    tensors: Vec<(String, View)>,
}

/// A tensor in the file, its place checked.
#[derive(Clone)]
struct View {
    kind: Kind,
    /// The bytes of the storage that it is a part of. Tensors may share one.
    bytes: Range<usize>,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Checkpoint {
    /// Whether the file begins as one of the containers that are read here.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be read.
    pub fn recognises(path: &Path) -> Result<bool> {
        use std::io::Read;
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
        read.map_err(|err| Error::io(path, err))?;
        Ok(start == *b"PK\x03\x04" || start.starts_with(b"\x80\x02"))
    }

    /// Opens a checkpoint and finds its state dict: the one under `params_ema`, else under `params`, else the
    /// file's whole content. What is no tensor in it is left out.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be read, [`Error::Model`] if it is broken or wants to call what it must not.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|err| Error::io(path, err))?;
        // SAFETY: the mapping is read-only. Another process that truncates the file while it is read would end this
        // one, as with every mapped file; weights aren't written to while they are in use.
        let file = unsafe { Mmap::map(&file) }.map_err(|err| Error::io(path, err))?;
        let tensors = find(&file).map_err(|reason| Error::model(path, reason))?;
        Ok(Self { path: path.into(), file, tensors })
    }

    /// The names and shapes of the tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape.as_slice()))
    }

    /// The tensors themselves, in the file's own precision and order, on the CPU. Those that share a storage in the
    /// file share it here.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is not enough.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        // The storages' sizes add up to no more than the file's, however often it points to the same bytes.
        let mut storages = HashMap::new();
        let mut total = 0;
        self.tensors
            .iter()
            .map(|(name, view)| {
                let storage = match storages.entry((view.bytes.start, view.bytes.end, view.kind)) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        total += view.bytes.len();
                        if total > self.file.len() {
                            return Err(Error::model(&self.path, "its tensors are larger than the file"));
                        }
                        let numbers = (view.bytes.len() / view.kind.elt_size_in_bytes()) as i64;
                        let bytes = &self.file[view.bytes.clone()];
                        entry.insert(Tensor::f_from_data_size(bytes, &[numbers], view.kind)?)
                    }
                };
                let tensor = storage.f_as_strided(&view.shape, &view.strides, view.offset)?;
                Ok((name.clone(), tensor))
            })
            .collect()
    }
}

/// Opens a checkpoint and gives its tensors. See [`Checkpoint`].
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    Checkpoint::open(path)?.tensors()
}

/// The tensors of the state dict in a file of either container.
fn find(file: &[u8]) -> Checked<Vec<(String, View)>> {
    if file.starts_with(b"PK") {
        let archive = Archive::open(file)?;
        if archive.get("byteorder")?.is_some_and(|range| file[range] != *b"little") {
            return Err("its numbers are big-endian, and only little-endian files are read".into());
        }
        let pickle = archive.get("data.pkl")?.ok_or("a zip archive without data.pkl is not a PyTorch checkpoint")?;
        let mut machine = Machine::new(&file[pickle]);
        let content = machine.run()?;
        return machine.state_dict(&content, |key| {
            archive.get(&format!("data/{key}"))?.ok_or_else(|| format!("the storage data/{key} is missing"))
        });
    }

    // Five pickles in a row, and the storages behind them.
    let not_one = || String::from("not a PyTorch checkpoint");
    let mut machine = Machine::new(file);
    for expected in [LEGACY_MAGIC, LEGACY_VERSION] {
        match machine.run().map_err(|err| format!("{} ({err})", not_one()))? {
            Value::Int(number) if number == expected => {}
            _ => return Err(not_one()),
        }
        machine = machine.following();
    }
    let system = machine.run()?;
    if matches!(machine.entry(&system, "little_endian"), Some(Value::Bool(false))) {
        return Err("its numbers are big-endian, and only little-endian files are read".into());
    }
    let mut machine = machine.following();
    let content = machine.run()?;
    let mut list = machine.following();
    let keys = match list.run()? {
        Value::List(keys) => list.lists[keys].clone(),
        _ => return Err("the list of its storages is missing".into()),
    };
    let mut at = list.at;
    let kinds: HashMap<_, _> = machine.storages.iter().map(|storage| (storage.key.clone(), storage.kind)).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err("the key of a storage is not a text".into()) };
        let Some(kind) = kinds.get(&key) else { return Err(format!("nothing says what the storage {key} holds")) };
        let count = file.get(at..at + 8).ok_or("the file ends too early")?;
        let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(kind.elt_size_in_bytes()));
        let end = bytes.and_then(|bytes| bytes.checked_add(at + 8)).filter(|&end| end <= file.len());
        let end = end.ok_or_else(|| format!("the file ends within the storage {key}"))?;
        storages.insert(key, at + 8..end);
        at = end;
    }
    machine.state_dict(&content, |key| storages.get(key).cloned().ok_or(format!("the storage {key} is missing")))
}

/// A zip archive as `torch.save` writes it: one folder, entries stored as they are.
struct Archive<'a> {
    file: &'a [u8],
    /// Name without the folder -> (place of the local header, size, method).
    entries: HashMap<&'a [u8], (usize, usize, u16)>,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the archive's end. The headers before the entries may not know their sizes.
    fn open(file: &'a [u8]) -> Checked<Self> {
        const END: usize = 22;
        let broken = "not a complete zip archive";
        let tail = file.len().saturating_sub(END + 0xffff);
        let end = (tail..=file.len().saturating_sub(END)).rev().find(|&at| file[at..].starts_with(b"PK\x05\x06"));
        let end = end.filter(|&at| at + END <= file.len()).ok_or(broken)?;
        let (count, mut at) = (short(file, end + 10).ok_or(broken)?, word(file, end + 16).ok_or(broken)?);
        if count == 0xffff || at == 0xffff_ffff {
            return Err("a zip archive of 4 GiB or 65535 entries, which is no network that is known here".into());
        }
        let mut entries = HashMap::new();
        for _ in 0..count {
            if !file.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
                return Err(broken.into());
            }
            let field = |offset| short(file, at + offset).ok_or(broken);
            let (method, name, extra, comment) = (field(10)?, field(28)?, field(30)?, field(32)?);
            let size = word(file, at + 24).ok_or(broken)?;
            let header = word(file, at + 42).ok_or(broken)?;
            let name_end = at + 46 + name;
            let name = file.get(at + 46..name_end).ok_or(broken)?;
            let inside = name.iter().position(|&byte| byte == b'/').map_or(name, |slash| &name[slash + 1..]);
            entries.insert(inside, (header, size, method as u16));
            at = name_end + extra + comment;
        }
        Ok(Self { file, entries })
    }

    /// Where the bytes of an entry are, if there is one.
    fn get(&self, name: &str) -> Checked<Option<Range<usize>>> {
        let Some(&(header, size, method)) = self.entries.get(name.as_bytes()) else { return Ok(None) };
        if method != 0 {
            return Err(format!("its entry {name} is compressed, which torch.save never does"));
        }
        let outside = || format!("its entry {name} lies outside the file");
        let lengths = (short(self.file, header + 26), short(self.file, header + 28));
        let (Some(name_length), Some(extra)) = lengths else { return Err(outside()) };
        let start = header + 30 + name_length + extra;
        let end = start.checked_add(size).filter(|&end| end <= self.file.len()).ok_or_else(outside)?;
        Ok(Some(start..end))
    }
}

/// The little-endian number of two bytes at `at`.
fn short(file: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

/// The little-endian number of four bytes at `at`.
fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?)).ok()
}

/// What a pickle's stack holds. Whatever has parts is in the machine, by number, so that no depth of nesting makes
/// anything recurse.
#[derive(Clone)]
enum Value {
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
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

/// A storage that a pickle refers to.
struct Storage {
    kind: Kind,
    key: Rc<str>,
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
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    limit: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<Storage>,
    tensors: Vec<Described>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
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
    fn following(&self) -> Self {
        Self::starting(self.bytes, self.at)
    }

    /// Runs to the pickle's end and gives its value.
    fn run(&mut self) -> Checked<Value> {
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
    fn entry(&self, dict: &Value, key: &str) -> Option<&Value> {
        let Value::Dict(dict) = dict else { return None };
        let is_key = |(name, _): &&(Value, Value)| matches!(name, Value::Text(name) if **name == *key);
        self.dicts[*dict].iter().rev().find(is_key).map(|(_, value)| value)
    }

    /// The state dict in a checkpoint's content; `place` tells where the bytes of a storage are.
    fn state_dict(
        &self,
        content: &Value,
        place: impl Fn(&str) -> Checked<Range<usize>>,
    ) -> Checked<Vec<(String, View)>> {
        let dict = ["params_ema", "params"].iter().find_map(|key| self.entry(content, key)).unwrap_or(content);
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
            return Err(format!("it holds no tensors under params_ema, params or by themselves, but {names:?}"));
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
        _ => {
            let global: String = format!("{module}.{name}").chars().filter(|c| !c.is_control()).take(100).collect();
            return Err(format!(
                "its pickle names {global}, which tensors don't need and which could run a program; nothing was run. \
                 Use a file with the weights alone"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    fn int(number: i32) -> Vec<u8> {
        [b"J".as_slice(), &number.to_le_bytes()].concat()
    }

    fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
        [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat()
    }

    fn pickle(body: &[u8]) -> Vec<u8> {
        [b"\x80\x02", body, b"."].concat()
    }

    /// A file of the older container with this object, and no storages.
    fn plain(object: &[u8]) -> Vec<u8> {
        let magic = [&[0x8a, 10], &LEGACY_MAGIC.to_le_bytes()[..10]].concat();
        [pickle(&magic), pickle(&int(1001)), pickle(b"}"), pickle(object), pickle(b"]")].concat()
    }

    /// The same with a storage "0" of six float32 numbers.
    fn file(object: &[u8]) -> Vec<u8> {
        let mut file = plain(object);
        file.truncate(file.len() - pickle(b"]").len());
        let keys = [b"]".to_vec(), text("0"), b"a".to_vec()].concat();
        let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        [file, pickle(&keys), 6u64.to_le_bytes().to_vec(), storage].concat()
    }

    /// {"w": a tensor in the storage "0", which is said to have `count` numbers}
    fn tensor(count: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
        let ints = |values: &[i32]| tuple(&values.iter().map(|&value| int(value)).collect::<Vec<_>>());
        let float = b"ctorch\nFloatStorage\n".to_vec();
        let storage =
            [tuple(&[text("storage"), float, text("0"), text("cpu"), int(count), b"N".to_vec()]), b"Q".to_vec()];
        let arguments = tuple(&[storage.concat(), int(offset), ints(shape), ints(strides)]);
        [b"}".to_vec(), text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"Rs".to_vec()].concat()
    }

    fn read_bytes(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    #[test]
    fn tensors_within_their_storage_are_read() {
        for (offset, shape, strides, wanted) in [
            (0, [2, 3], [3, 1], vec![0., 1., 2., 3., 4., 5.]),
            (0, [3, 2], [1, 3], vec![0., 3., 1., 4., 2., 5.]),
            (5, [1, 1], [100, 100], vec![5.]),
            (6, [0, 9], [9, 1], vec![]),
        ] {
            let tensors = read_bytes(&file(&tensor(6, offset, &shape, &strides))).unwrap();
            assert_eq!(tensors[0].0, "w");
            assert_eq!(Vec::<f32>::try_from(tensors[0].1.reshape(-1)).unwrap(), wanted);
        }
    }

    #[test]
    fn tensors_that_reach_beyond_their_storage_are_refused() {
        let huge = i32::MAX;
        for (count, offset, shape, strides) in [
            (6, 1, [2, 3], [3, 1]),
            (6, -1, [2, 3], [3, 1]),
            (6, 7, [0, 1], [1, 1]),
            (6, 0, [2, 3], [4, 1]),
            (6, 5, [2, 3], [-3, 1]),
            (6, 0, [-2, -3], [3, 1]),
            (6, 0, [7, 1], [0, 0]),
            (6, 0, [huge, huge], [huge, huge]),
            (6, huge, [huge, huge], [1, 1]),
            (7, 0, [1, 1], [1, 1]),
            (-1, 0, [1, 1], [1, 1]),
            (huge, 0, [1, 1], [1, 1]),
        ] {
            let message = read_bytes(&file(&tensor(count, offset, &shape, &strides))).unwrap_err().to_string();
            assert!(message.contains("the tensor w: ") && message.contains("storage"), "{message}");
        }
        let message = read_bytes(&file(&tensor(6, 0, &[2, 3], &[1]))).unwrap_err().to_string();
        assert!(message.contains("strides [1]"), "{message}");
    }

    #[test]
    fn pickles_that_do_more_than_tensors_need_are_refused() {
        for (object, part) in [
            (b"cos\nsystem\n(X\x04\0\0\0true tR".as_slice(), "os.system"),
            (b"c__builtin__\neval\n", "__builtin__.eval"),
            (b"ctorch._utils\n_rebuild_tensor\n", "torch._utils._rebuild_tensor,"),
            (b"(iposix\nsystem\n", "opcode 0x69"),
            (b"\x93", "opcode 0x93"),
            (b"}}b}b)R", "calls what is no function"),
            (b"ccollections\nOrderedDict\n(K\x01tR", "unknown way"),
            (b"t", "mark that it never set"),
            (b"((N0", "opcode 0x30"),
            (b"NQ", "storage that is none"),
            (b"h\x05", "never stored"),
            (b"]", "no dictionary of tensors"),
            (b"}X\x05\0\0\0epochK\x07s", "[\"epoch\"]"),
        ] {
            let message = read_bytes(&plain(object)).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn deep_and_circular_pickles_are_no_trouble() {
        let deep = [b"]".repeat(1 << 20), b"a".repeat((1 << 20) - 1)].concat();
        assert!(read_bytes(&plain(&deep)).unwrap_err().to_string().contains("no dictionary"));
        let circular = [b"}q\0".as_slice(), &text("params"), b"h\0s"].concat();
        assert!(read_bytes(&plain(&circular)).unwrap_err().to_string().contains("no tensors"));
        let huge = [b"T".as_slice(), &[0xff; 4]].concat();
        assert!(read_bytes(&plain(&huge)).unwrap_err().to_string().contains("ends too early"));
    }
}
