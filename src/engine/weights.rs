// SPDX-License-Identifier: MPL-2.0
//! Weights by name: read from files, checked against what a network asks for, and reported whole.
//!
//! A network takes its tensors through a [`Scope`], by the checkpoint's own names. Nothing fails while it is being
//! built: a tensor that is missing or misshapen is noted and replaced by zeros that take no memory. [`Weights::finish`]
//! then gives one error that lists everything: missing, misshapen, and present but never asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use super::worker::Cancel;
use super::{Error, Result};

/// How many names an error lists of each sort before it only counts.
const LISTED: usize = 12;

/// The tensors of one network, and what has been asked of them.
pub struct Weights {
    origin: PathBuf,
    tensors: BTreeMap<String, Stored>,
    device: Device,
    kind: Kind,
    cancel: Cancel,
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
    /// In a mapped file: its bytes, in the file's own precision.
    Mapped { file: std::rc::Rc<Mmap>, range: std::ops::Range<usize>, kind: Kind, shape: Vec<i64> },
    /// In memory.
    Tensor(Tensor),
}

impl Stored {
    fn shape(&self) -> Vec<i64> {
        match self {
            Self::Mapped { shape, .. } => shape.clone(),
            Self::Tensor(tensor) => tensor.size(),
        }
    }

    fn load(&self, device: Device, kind: Kind) -> Result<Tensor> {
        Ok(match self {
            Self::Mapped { file, range, kind: stored, shape } => {
                Tensor::f_from_data_size(&file[range.clone()], shape, *stored)?
                    .f_to_device_(device, kind, false, false)?
            }
            Self::Tensor(tensor) => tensor.f_to_device_(device, kind, false, false)?,
        })
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
        let mut tensors = BTreeMap::new();
        for path in files {
            let file = File::open(path).map_err(|err| Error::io(path, err))?;
            // SAFETY: the mapping is read-only. Another process that truncates the file while it is read would end
            // this one, as with every mapped file; weights aren't written to while they are in use.
            let file = std::rc::Rc::new(unsafe { Mmap::map(&file) }.map_err(|err| Error::io(path, err))?);
            let broken = |err| Error::model(path, format!("not a complete safetensors file ({err})"));
            let (header, _) = SafeTensors::read_metadata(&file).map_err(broken)?;
            for (name, view) in SafeTensors::deserialize(&file).map_err(broken)?.tensors() {
                let Some(kind) = kind_of(view.dtype()) else {
                    let reason =
                        format!("the tensor {name} has the type {:?}, which no network here uses", view.dtype());
                    return Err(Error::model(path, reason));
                };
                // Where the view lies in the file, so that it can outlive the borrow.
                let start = view.data().as_ptr() as usize - file.as_ptr() as usize;
                debug_assert!(start >= header + 8);
                let range = start..start + view.data().len();
                let shape = view.shape().iter().map(|&side| side as i64).collect();
                tensors.insert(name, Stored::Mapped { file: file.clone(), range, kind, shape });
            }
        }
        let origin = match files {
            [file] => file.clone(),
            _ => files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).into(),
        };
        Ok(Self::with(origin, tensors, device, kind, cancel.clone()))
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
        Self { origin, tensors, device, kind, cancel, asked: RefCell::default() }
    }

    /// The same tensors under other names: `name` gives the new one for each.
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(old, stored)| (name(&old), stored)).collect();
        self
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
            Ok(tensor) => tensor,
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
