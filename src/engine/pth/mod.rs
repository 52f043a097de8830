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

mod pickle;
mod zip;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tch::{Kind, Tensor};

use self::pickle::{Machine, Value};
use self::zip::Archive;
use super::{Error, Result};

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

    /// Opens a checkpoint and finds its state dict: the one under `params_ema`, else under `params`, `state_dict` or
    /// `model_state_dict`, else the file's whole content. What is no tensor in it is left out.
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
