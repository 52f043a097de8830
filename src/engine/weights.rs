// SPDX-License-Identifier: MPL-2.0
//! Weights by name: read from files, checked against what a network asks for, and reported whole.
//!
//! A network takes its tensors through a [`Scope`], by the checkpoint's own names. Nothing fails while it is being
//! built: a tensor that is missing or misshapen is noted and replaced by zeros that take no memory. [`Weights::finish`]
//! then gives one error that lists everything: missing, misshapen, and present but never asked for.
//!
//! Files are mapped. A tensor is copied once, from the mapping to its place on the device, and the pages that it was
//! read from are given back: a load takes the memory of what is loaded, and of one tensor more.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use super::worker::Cancel;
use super::{Error, Result};

/// How many names an error lists of each sort before it only counts.
const LISTED: usize = 12;

/// How far a load is, in bytes of the files. Clones are of the same load.
#[derive(Debug, Clone, Default)]
pub struct LoadProgress(Arc<LoadedBytes>);

#[derive(Debug, Default)]
struct LoadedBytes {
    done: AtomicU64,
    all: AtomicU64,
}

impl LoadProgress {
    /// Says how many bytes there are to load; more can be said later.
    pub fn expect(&self, bytes: u64) {
        self.0.all.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes that have been loaded, and all of them; 0 of 0 before it is known how many there are.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.all.load(Ordering::Relaxed))
    }
}

/// What part of a stored tensor becomes a tensor of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, as it is.
    Whole,
    /// One of three equal runs of rows: the queries (0), keys (1) or values (2) of a fused projection.
    Third(usize),
    /// A matrix with its rows as columns.
    Transposed,
    /// A convolution of 1 x 1 as the matrix that it is: (outputs, inputs, 1, 1) -> (outputs, inputs).
    Matrix,
}

/// The tensors of one network, and what has been asked of them.
pub struct Weights {
    origin: PathBuf,
    tensors: BTreeMap<String, Stored>,
    metadata: HashMap<String, String>,
    device: Device,
    kind: Kind,
    cancel: Cancel,
    progress: LoadProgress,
    asked: RefCell<Asked>,
}

#[derive(Default)]
struct Asked {
    wanted: BTreeMap<String, Vec<i64>>,
    skipped: BTreeSet<String>,
    misshapen: Vec<String>,
    failed: Option<Error>,
}

enum Stored {
    /// In a mapped file.
    Mapped(Mapped),
    /// In memory.
    Tensor(Tensor),
}

/// A tensor's bytes in a mapped file, in the file's own precision.
#[derive(Clone)]
struct Mapped {
    file: Rc<Mmap>,
    range: Range<usize>,
    kind: Kind,
    /// As it is stored.
    shape: Vec<i64>,
    is_transposed: bool,
}

impl Mapped {
    fn load(&self, device: Device, kind: Kind) -> Result<Tensor> {
        let (start, length) = (self.range.start, self.range.len());
        // Advice that the system does not take costs time or memory, and nothing else.
        let _ = self.file.advise_range(Advice::WillNeed, start, length);
        let bytes = &self.file[self.range.clone()];
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(self.kind.elt_size_in_bytes());
        let is_ready = (device, kind) == (Device::Cpu, self.kind);
        let loaded = if is_ready || !is_aligned || bytes.is_empty() {
            let copy = Tensor::f_from_data_size(bytes, &self.shape, self.kind)?;
            self.turned(&copy)?.f_to_device_(device, kind, false, false)?
        } else {
            // SAFETY: the bytes are those of the shape, which safetensors has checked, and they outlive the tensor,
            // which ends with this block; what is made of it is a copy.
            let stored = unsafe { Tensor::f_from_blob(bytes.as_ptr(), &self.shape, &[], self.kind, Device::Cpu)? };
            self.turned(&stored)?.f_to_device_(device, kind, false, true)?
        };
        // SAFETY: nobody writes to the mapping, so pages that are given back and read again are the same.
        let _ = unsafe { self.file.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
        Ok(loaded)
    }

    /// What is stored, as the matrix that it is to be.
    fn turned(&self, stored: &Tensor) -> Result<Tensor> {
        Ok(if self.is_transposed { stored.f_tr()?.f_contiguous()? } else { stored.shallow_clone() })
    }
}

impl Stored {
    fn shape(&self) -> Vec<i64> {
        match self {
            Self::Mapped(mapped) if mapped.is_transposed => mapped.shape.iter().rev().copied().collect(),
            Self::Mapped(mapped) => mapped.shape.clone(),
            Self::Tensor(tensor) => tensor.size(),
        }
    }

    /// Bytes, as stored.
    fn bytes(&self) -> u64 {
        match self {
            Self::Mapped(mapped) => mapped.range.len() as u64,
            Self::Tensor(tensor) => (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64,
        }
    }

    fn load(&self, device: Device, kind: Kind) -> Result<Tensor> {
        match self {
            Self::Mapped(mapped) => mapped.load(device, kind),
            Self::Tensor(tensor) => Ok(tensor.f_to_device_(device, kind, false, false)?),
        }
    }

    /// A part of it, without reading anything. What has no such part stays whole: its shape tells on it.
    fn part(&self, part: Part) -> Self {
        let mut shape = self.shape();
        let part = match (part, shape.as_mut_slice()) {
            (Part::Third(_), [rows, ..]) if *rows % 3 == 0 => {
                *rows /= 3;
                part
            }
            (Part::Matrix, [_, _, 1, 1]) => {
                shape.truncate(2);
                part
            }
            (Part::Transposed, [_, _]) => part,
            _ => Part::Whole,
        };
        match self {
            Self::Mapped(mapped) => {
                let mut mapped = Mapped { shape, ..mapped.clone() };
                match part {
                    Part::Third(i) => {
                        let third = mapped.range.len() / 3;
                        let start = mapped.range.start + i * third;
                        mapped.range = start..start + third;
                    }
                    Part::Transposed => mapped.is_transposed = true,
                    Part::Whole | Part::Matrix => {}
                }
                Self::Mapped(mapped)
            }
            Self::Tensor(tensor) => Self::Tensor(match part {
                Part::Third(i) => tensor.narrow(0, i as i64 * shape[0], shape[0]),
                Part::Transposed => tensor.tr().contiguous(),
                Part::Matrix => tensor.view(shape.as_slice()),
                Part::Whole => tensor.shallow_clone(),
            }),
        }
    }
}

impl Weights {
    /// Opens safetensors files (all shards of one network) without reading their tensors yet.
    ///
    /// The network's tensors will be of `kind` on `device`; `cancel` ends the loading between two tensors.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if a file can't be read or is not a safetensors file.
    pub fn open(files: &[PathBuf], device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        let mut weights = Self::with(PathBuf::new(), BTreeMap::new(), device, kind, cancel.clone());
        for path in files {
            weights.add_file(path)?;
        }
        weights.origin = match files {
            [file] => file.clone(),
            _ => files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).into(),
        };
        Ok(weights)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|err| Error::io(path, err))?;
        // SAFETY: the mapping is read-only. Another process that truncates the file while it is read would end
        // this one, as with every mapped file; weights aren't written to while they are in use.
        let file = Rc::new(unsafe { Mmap::map(&file) }.map_err(|err| Error::io(path, err))?);
        let broken = |err| Error::model(path, format!("not a complete safetensors file ({err})"));
        let (header, metadata) = SafeTensors::read_metadata(&file).map_err(broken)?;
        // Behind the header's length, eight bytes, and the header.
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let Some(kind) = kind_of(info.dtype) else {
                let reason = format!("the tensor {name} has the type {:?}, which no network here uses", info.dtype);
                return Err(Error::model(path, reason));
            };
            let sides = info.shape.iter().map(|&side| i64::try_from(side)).collect::<Result<Vec<_>, _>>();
            let Ok(shape) = sides else {
                return Err(Error::model(path, format!("the tensor {name} can't be of the shape {:?}", info.shape)));
            };
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let mapped = Mapped { file: file.clone(), range, kind, shape, is_transposed: false };
            if self.tensors.insert(name.clone(), Stored::Mapped(mapped)).is_some() {
                return Err(Error::model(path, format!("the tensor {name} is in another file of the model, too")));
            }
        }
        self.metadata.extend(metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        Ok(())
    }

    /// Weights that are in memory already; `origin` names them in errors.
    pub fn from_tensors(
        origin: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        device: Device,
        kind: Kind,
    ) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Stored::Tensor(tensor))).collect();
        Self::with(origin.as_ref().into(), tensors, device, kind, Cancel::default())
    }

    fn with(origin: PathBuf, tensors: BTreeMap<String, Stored>, device: Device, kind: Kind, cancel: Cancel) -> Self {
        let (metadata, progress) = (HashMap::new(), LoadProgress::default());
        Self { origin, tensors, metadata, device, kind, cancel, progress, asked: RefCell::default() }
    }

    /// The same tensors under other names: `name` gives the new one for each.
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(old, stored)| (name(&old), stored)).collect();
        self
    }

    /// The tensors that `parts` makes of these: for each name, new names and what part each of them is. Names that it
    /// makes nothing of are left out.
    pub fn rearranged(mut self, parts: impl Fn(&str) -> Vec<(String, Part)>) -> Self {
        let old = std::mem::take(&mut self.tensors);
        for (name, stored) in &old {
            self.tensors.extend(parts(name).into_iter().map(|(name, part)| (name, stored.part(part))));
        }
        self
    }

    /// The same weights with one tensor more, which counts as if it had been stored.
    pub fn with_tensor(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.insert(name.into(), Stored::Tensor(tensor));
        self
    }

    /// The same weights; what is loaded of them is counted by `progress`, which is told now how much that is.
    pub fn counted_by(mut self, progress: &LoadProgress) -> Self {
        progress.expect(self.tensors.values().map(Stored::bytes).sum());
        self.progress = progress.clone();
        self
    }

    /// What the files say of themselves under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The names and shapes that are there.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<i64>)> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape()))
    }

    /// The names and shapes that have been asked for.
    pub fn wanted(&self) -> BTreeMap<String, Vec<i64>> {
        self.asked.borrow().wanted.clone()
    }

    /// The device that tensors are loaded to.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The kind that tensors are loaded as.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The scope of names without a prefix.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new(), kind: self.kind }
    }

    /// Ends the building of a network: all is well, or one error says everything that is not.
    ///
    /// # Errors
    /// [`Error::Model`] with the tensors that are missing, misshapen or unexpected; [`Error::Cancelled`];
    /// [`Error::OutOfMemory`] if the device could not take them.
    pub fn finish(self) -> Result<()> {
        let Asked { wanted, skipped, misshapen, failed } = self.asked.into_inner();
        if let Some(err) = failed {
            return Err(err);
        }
        let list = |names: Vec<String>| {
            let mut text = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
            if names.len() > LISTED {
                write!(text, " and {} more", names.len() - LISTED).expect("writing to a string");
            }
            text
        };
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(name, _)| !self.tensors.contains_key(*name))
            .map(|(name, shape)| format!("{name} {shape:?}"))
            .collect();
        let is_known = |name: &String| wanted.contains_key(name) || skipped.contains(name);
        let unexpected: Vec<_> = self.tensors.keys().filter(|name| !is_known(name)).cloned().collect();
        let mut reason = String::from("these weights don't fit the network that they are for");
        let sorts = [("missing", missing), ("misshapen", misshapen), ("unexpected", unexpected)];
        if sorts.iter().all(|(_, names)| names.is_empty()) {
            return Ok(());
        }
        for (sort, names) in sorts {
            if !names.is_empty() {
                write!(reason, "; {sort} ({}): {}", names.len(), list(names)).expect("writing to a string");
            }
        }
        Err(Error::model(self.origin, reason))
    }

    fn take(&self, name: String, shape: &[i64], kind: Kind) -> Tensor {
        let placeholder = || Tensor::zeros([1], (kind, self.device)).expand(shape, false);
        let mut asked = self.asked.borrow_mut();
        asked.wanted.insert(name.clone(), shape.to_vec());
        let Some(stored) = self.tensors.get(&name) else { return placeholder() };
        if stored.shape() != shape {
            asked.misshapen.push(format!("{name} {:?} instead of {shape:?}", stored.shape()));
            return placeholder();
        }
        if asked.failed.is_some() {
            return placeholder();
        }
        match self.cancel.check().and_then(|()| stored.load(self.device, kind)) {
            Ok(tensor) => {
                self.progress.add(stored.bytes());
                tensor
            }
            Err(err) => {
                asked.failed = Some(err);
                placeholder()
            }
        }
    }
}

/// Weights under a prefix of names. `scope / "conv1"` goes one name deeper.
#[derive(Clone)]
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    kind: Kind,
}

impl Scope<'_> {
    /// The same scope, whose tensors are of `kind` instead.
    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The tensor `name` under this scope, which must have this shape.
    pub fn get(&self, name: &str, shape: &[i64]) -> Tensor {
        self.weights.take(format!("{}{name}", self.prefix), shape, self.kind)
    }

    /// Says that a tensor `name` may be there, and is of no use.
    pub fn skip(&self, name: &str) {
        self.weights.asked.borrow_mut().skipped.insert(format!("{}{name}", self.prefix));
    }

    /// Whether there is a tensor `name` under this scope.
    pub fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(&format!("{}{name}", self.prefix))
    }

    /// The kind of the tensors that this scope gives.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The device of the tensors that this scope gives.
    pub fn device(&self) -> Device {
        self.weights.device
    }
}

impl<'a, T: std::fmt::Display> std::ops::Div<T> for &Scope<'a> {
    type Output = Scope<'a>;

    fn div(self, name: T) -> Scope<'a> {
        Scope { weights: self.weights, prefix: format!("{}{name}.", self.prefix), kind: self.kind }
    }
}

impl<'a, T: std::fmt::Display> std::ops::Div<T> for Scope<'a> {
    type Output = Scope<'a>;

    fn div(self, name: T) -> Scope<'a> {
        &self / name
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::F8_E5M2 => Kind::Float8e5m2,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(tensors: &[(&str, &[i64])]) -> Weights {
        let tensors =
            tensors.iter().map(|(name, shape)| (name.to_string(), Tensor::ones(*shape, (Kind::Float, Device::Cpu))));
        Weights::from_tensors("net", tensors, Device::Cpu, Kind::Half)
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let weights = weights(&[("a.weight", &[2, 3]), ("a.bias", &[3]), ("b.weight", &[1])]);
        let scope = weights.root() / "a";
        assert_eq!(scope.get("weight", &[2, 3]).kind(), Kind::Half);
        assert_eq!(scope.get("bias", &[2]).size(), [2]);
        assert_eq!((&scope / 0).get("weight", &[1 << 40]).size(), [1 << 40]);
        let message = weights.finish().unwrap_err().to_string();
        for part in
            ["net: ", "missing (1): a.0.weight", "misshapen (1): a.bias [3] instead of [2]", "unexpected (1): b.weight"]
        {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_whole_network_is_accepted() {
        let weights = weights(&[("weight", &[2]), ("position_ids", &[3])]);
        weights.root().skip("position_ids");
        assert_eq!(weights.root().get("weight", &[2]).size(), [2]);
        weights.finish().unwrap();
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
        let err = Weights::open(&[file.path().into()], Device::Cpu, Kind::Float, &Cancel::default()).err().unwrap();
        assert!(err.to_string().contains("not a complete safetensors file"), "{err}");
    }
}
