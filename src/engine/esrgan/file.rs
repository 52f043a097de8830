// SPDX-License-Identifier: MPL-2.0
//! The file that a model is in, or the two files that it is blended from, and how they are opened.
//!
//! `realesr-general-x4v3` removes noise, and its partner `realesr-general-wdn-x4v3` leaves it. A network whose weights
//! are between theirs does something between (deep network interpolation: Wang et al., 2019, arXiv:1811.10515).
//!
//! Upstream: `realesrgan/utils.py`, `RealESRGANer.dni`; `inference_realesrgan.py` for `denoise_strength`.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::names::Names;
use super::{Architecture, Shapes};
use crate::engine::cache::Key;
use crate::engine::pth::Checkpoint;
use crate::engine::weights::Weights;
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

/// What the extension of a file of weights may be.
const EXTENSIONS: [&str; 3] = ["safetensors", "pth", "pt"];

/// Where a model is: in a file, or between two.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The file (`.safetensors` or `.pth`).
    pub path: PathBuf,
    /// What it is blended with; `None` if it is taken as it is.
    pub partner: Option<Partner>,
}

/// The file that another one is blended with.
#[derive(Debug, Clone, PartialEq)]
pub struct Partner {
    /// The file.
    pub path: PathBuf,
    /// The other file's share of the weights, 0 to 1; the rest is this one's.
    pub denoise_strength: f64,
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelFile {
    fn from(path: &P) -> Self {
        Self { path: path.as_ref().into(), partner: None }
    }
}

impl From<PathBuf> for ModelFile {
    fn from(path: PathBuf) -> Self {
        Self { path, partner: None }
    }
}

impl ModelFile {
    /// The model in the file `path` whose share is `denoise_strength`, and whose partner, found beside it, has the
    /// rest. At 1 no partner is needed, and none is looked for.
    ///
    /// # Errors
    /// [`Error::Param`] if the strength is not from 0 to 1, or if there is no partner: it names the files looked for.
    pub fn blended(path: &Path, denoise_strength: f64) -> Result<Self> {
        let wrong = |expected| Err(Error::param("denoise_strength", denoise_strength, expected));
        if !(0.0..=1.0).contains(&denoise_strength) {
            return wrong("use 0 (noise stays) to 1 (the model as it is)".into());
        }
        if denoise_strength == 1.0 {
            return Ok(path.into());
        }
        let candidates = partner_candidates(path);
        if let Some(partner) = candidates.iter().find(|candidate| candidate.exists()) {
            let partner = Partner { path: partner.clone(), denoise_strength };
            return Ok(Self { path: path.into(), partner: Some(partner) });
        }
        let file = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names = candidates.iter().map(file).collect::<Vec<_>>().join(", ");
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        wrong(if candidates.is_empty() {
            format!("{} is the partner itself; name the model that it belongs to, or use 1", path.display())
        } else {
            format!(
                "{} has no partner to blend it with: there is no {names} in {}; use 1, or realesr-general-x4v3 with \
                 realesr-general-wdn-x4v3 beside it",
                path.display(),
                folder.display()
            )
        })
    }

    /// The partner of the model in the file `path`, if there is one beside it: the file with `wdn` before the last part
    /// of its name, as `realesr-general-wdn-x4v3.pth` is of `realesr-general-x4v3.pth`. Its extension may be another.
    pub fn partner_of(path: &Path) -> Option<PathBuf> {
        partner_candidates(path).into_iter().find(|candidate| candidate.exists())
    }

    /// What tells the model from others that are loaded on `device` in `kind`.
    pub fn key(&self, device: Device, kind: Kind) -> Key {
        let Some(Partner { path, denoise_strength }) = &self.partner else { return Key::new(&self.path, device, kind) };
        let variant = format!("denoise_strength={denoise_strength}");
        Key::of_files(&self.path, &variant, &[self.path.clone(), path.clone()], device, kind)
    }
}

impl From<&ModelFile> for ModelFile {
    fn from(file: &ModelFile) -> Self {
        file.clone()
    }
}

/// The names that a model's partner may have, its own extension first; none if it is a partner by its name.
fn partner_candidates(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem.split(['-', '_']).any(|part| part == "wdn") {
        return Vec::new();
    }
    let stem = match stem.rfind(['-', '_']) {
        Some(at) => {
            let (before, last) = stem.split_at(at);
            format!("{before}{}wdn{last}", &last[..1])
        }
        None => format!("{stem}-wdn"),
    };
    let own = path.extension().map(|extension| extension.to_string_lossy().into_owned());
    let others = EXTENSIONS.map(String::from).into_iter().filter(|extension| own.as_ref() != Some(extension));
    // Not `with_extension`, which would take a dot in the name for an extension.
    own.iter().cloned().chain(others).map(|extension| path.with_file_name(format!("{stem}.{extension}"))).collect()
}

/// Reads from a file (`.safetensors` or `.pth`), or from two to be blended, which network it holds. The weights
/// themselves are not read.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`] if a file can't be read, is broken, or holds another network, or if two don't fit
/// together.
pub fn inspect(file: impl Into<ModelFile>) -> Result<Architecture> {
    let ModelFile { path, partner } = file.into();
    let shapes = shapes(&path)?;
    let architecture = detect(&path, &shapes)?;
    if let Some(Partner { path: other, .. }) = partner {
        fit(&path, &shapes, &other, &self::shapes(&other)?)?;
    }
    Ok(architecture)
}

/// Opens the weights in a file (`.safetensors` or `.pth`), or between two, under the names that the networks here use,
/// and tells which network they are of. `cancel` ends the loading between two tensors.
///
/// # Errors
/// As [`inspect`].
pub fn open(
    file: impl Into<ModelFile>,
    device: Device,
    kind: Kind,
    cancel: &Cancel,
) -> Result<(Weights, Architecture)> {
    let ModelFile { path, partner } = file.into();
    let weights = match partner {
        None => read(&path, device, kind, cancel)?,
        Some(partner) => {
            let tensors = blend(&path, &partner, cancel)?;
            Weights::from_tensors(&path, tensors, device, kind)
        }
    };
    let architecture = detect(&path, &shapes_of(&weights))?;
    Ok((weights, architecture))
}

/// The tensors between those of two files, in float32.
fn blend(path: &Path, partner: &Partner, cancel: &Cancel) -> Result<Vec<(String, Tensor)>> {
    let open = |path: &Path| read(path, Device::Cpu, Kind::Float, cancel);
    let (first, second) = (open(path)?, open(&partner.path)?);
    let shapes = shapes_of(&first);
    detect(path, &shapes)?;
    fit(path, &shapes, &partner.path, &shapes_of(&second))?;
    let share = partner.denoise_strength;
    let between = |(name, shape): (String, Vec<i64>)| {
        let (ours, theirs) = (first.root().get(&name, &shape), second.root().get(&name, &shape));
        (name, ours * share + theirs * (1.0 - share))
    };
    let tensors = shapes.into_iter().map(between).collect();
    first.finish()?;
    second.finish()?;
    Ok(tensors)
}

/// Checks that two files hold the same network with tensors of the same names and shapes.
fn fit(path: &Path, shapes: &Shapes, other: &Path, others: &Shapes) -> Result<()> {
    let wrong = |why: String| Err(Error::model(path, format!("can't be blended with {}: {why}", other.display())));
    let (ours, theirs) = (detect(path, shapes)?, detect(other, others)?);
    if ours != theirs {
        return wrong(format!("one is an {ours}, and the other an {theirs}"));
    }
    let differs = |(name, shape): &(&String, &Vec<i64>)| others.get(*name) != Some(*shape);
    if let Some((name, shape)) = shapes.iter().find(differs) {
        return wrong(match others.get(name) {
            Some(other) => format!("{name} is {shape:?} in one and {other:?} in the other"),
            None => format!("the second has no {name}"),
        });
    }
    match others.keys().find(|name| !shapes.contains_key(*name)) {
        Some(name) => wrong(format!("the first has no {name}")),
        None => Ok(()),
    }
}

fn detect(path: &Path, shapes: &Shapes) -> Result<Architecture> {
    Architecture::detect(shapes).map_err(|reason| Error::model(path, reason))
}

fn shapes_of(weights: &Weights) -> Shapes {
    weights.shapes().map(|(name, shape)| (name.into(), shape)).collect()
}

/// The tensors' names and shapes in one file.
fn shapes(path: &Path) -> Result<Shapes> {
    if is_checkpoint(path)? {
        let checkpoint = Checkpoint::open(path)?;
        let names = Names::of(checkpoint.shapes().map(|(name, _)| name));
        Ok(checkpoint.shapes().map(|(name, shape)| (names.current(name), shape.to_vec())).collect())
    } else {
        Ok(shapes_of(&read(path, Device::Cpu, Kind::Float, &Cancel::default())?))
    }
}

/// One file's tensors under the current names.
fn read(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<Weights> {
    let weights = if is_checkpoint(path)? {
        Weights::from_tensors(path, Checkpoint::open(path)?.tensors()?, device, kind)
    } else {
        Weights::open(&[path.into()], device, kind, cancel)?
    };
    let names = Names::of(weights.shapes().map(|(name, _)| name));
    Ok(weights.renamed(|name| names.current(name)))
}

/// Whether a file is to be read as a PyTorch checkpoint: because of its content, or, to refuse it, because of its name.
fn is_checkpoint(path: &Path) -> Result<bool> {
    let named = path.extension().is_some_and(|extension| extension == "pth" || extension == "pt");
    Ok(Checkpoint::recognises(path)? || named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_found_beside_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (model, partner) in [
            ("realesr-general-x4v3.pth", "realesr-general-wdn-x4v3.pth"),
            ("realesr_general_x4v3.pth", "realesr_general_wdn_x4v3.safetensors"),
            ("other.v2-x4v3.safetensors", "other.v2-wdn-x4v3.safetensors"),
            ("single.pth", "single-wdn.pt"),
            ("ünï-ö.pth", "ünï-wdn-ö.pth"),
        ] {
            assert_eq!(ModelFile::partner_of(&at(model)), None);
            std::fs::write(at(partner), "").unwrap();
            assert_eq!(ModelFile::partner_of(&at(model)), Some(at(partner)));
            let blended = ModelFile::blended(&at(model), 0.25).unwrap();
            let wanted = Partner { path: at(partner), denoise_strength: 0.25 };
            assert_eq!(blended, ModelFile { path: at(model), partner: Some(wanted) });
            // As it is, nobody looks for a partner.
            assert_eq!(ModelFile::blended(&at(model), 1.0).unwrap().partner, None);
        }
        // The model's own extension first.
        std::fs::write(at("single-wdn.pth"), "").unwrap();
        assert_eq!(ModelFile::partner_of(&at("single.pth")), Some(at("single-wdn.pth")));
    }

    #[test]
    fn errors_name_the_partner_that_is_missing() {
        let message = |name: &str, strength| ModelFile::blended(Path::new(name), strength).unwrap_err().to_string();
        for (message, parts) in [
            (
                message("m/realesr-general-x4v3.pth", 0.5),
                [
                    "denoise_strength=0.5",
                    "no realesr-general-wdn-x4v3.pth, realesr-general-wdn-x4v3.safetensors, realesr-general-wdn-x4v3.pt in m;",
                ],
            ),
            (message("net.safetensors", 0.0), ["net-wdn.safetensors", " in .;"]),
            (message("realesr-general-wdn-x4v3.pth", 0.5), ["is the partner itself", "or use 1"]),
            (message("net.pth", 1.5), ["denoise_strength=1.5", "use 0"]),
            (message("net.pth", f64::NAN), ["denoise_strength=NaN", "to 1"]),
        ] {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn a_blended_model_is_another_one_for_each_strength_and_partner() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("net.pth"), folder.path().join("net-wdn.pth"));
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&other, "two").unwrap();
        let key = |strength| ModelFile::blended(&path, strength).unwrap().key(Device::Cpu, Kind::Float);
        assert_eq!(key(1.0), Key::new(&path, Device::Cpu, Kind::Float));
        assert_eq!(key(0.5), key(0.5));
        assert_ne!(key(0.5), key(1.0));
        assert_ne!(key(0.5), key(0.25));
        let before = key(0.5);
        std::fs::write(&other, "longer").unwrap();
        assert_ne!(key(0.5), before);
        assert_eq!(key(1.0), Key::new(&path, Device::Cpu, Kind::Float));
    }
}
