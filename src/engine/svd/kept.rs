// SPDX-License-Identifier: MPL-2.0
//! Latents that are kept in a folder from denoising to decoding and beyond: a clip that is made again, because its
//! process ended after the last step, is only decoded.
//!
//! The file `KEY.safetensors` has one tensor, `latents`, of (1, frames, channels, h, w) in float32, which is what
//! latents are between steps; its metadata's `sha256` is that of the key and the tensor's bytes. The key is the SHA-256
//! of a JSON with all that decides the latents. Nothing is ever deleted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::{Model, Params};
use crate::engine::bytes::Bytes;
use crate::engine::cache::Stamp;
use crate::engine::device::kind_name;
use crate::engine::image::Frame;
use crate::engine::{Error, Result};

/// Counted up when the same parameters come to make other latents, or are written in another way.
const VERSION: u32 = 1;
/// The tensor in a file.
const NAME: &str = "latents";
/// The hash in its metadata.
const HASH: &str = "sha256";
/// Parameters that say only how latents are made and decoded, and not which they are.
const OTHERS: [&str; 3] = ["decode_chunk_size", "decode_mode", "max_memory"];

/// A folder in which latents are kept.
#[derive(Debug, Clone)]
pub struct LatentsFolder(PathBuf);

impl LatentsFolder {
    /// Takes a folder that can be written to, or makes it, if its parent is there.
    ///
    /// # Errors
    /// [`Error::Param`] if it can't be made or written to.
    pub fn open(path: &Path) -> Result<Self> {
        let made = match fs::create_dir(path) {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        // Whether it can be written to is not known before it was.
        let trial = part_of(&path.join("trial"));
        let tried = made.and_then(|()| File::create(&trial)).and_then(|_| fs::remove_file(&trial));
        let expected =
            |err| format!("use a folder that can be written to, or a new one in a folder that is there ({err})");
        tried.map_err(|err| Error::param("latents_folder", path.display(), expected(err)))?;
        Ok(Self(path.into()))
    }

    /// The place of the latents that `model` makes of `keyframe`.
    pub(super) fn file(&self, model: &Model, keyframe: &Frame, params: &Params) -> LatentsFile {
        let key = key(&model.files, model.device, model.kind, keyframe, params);
        LatentsFile { path: self.0.join(format!("{key}.safetensors")), key }
    }
}

/// The place of one clip's latents.
pub(super) struct LatentsFile {
    /// The file, which may not be there.
    pub path: PathBuf,
    key: String,
}

impl LatentsFile {
    /// The latents, which must be of `shape`, on the CPU. `None` if there is no file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if the file is of no use.
    pub fn read(&self, shape: &[i64]) -> Result<Option<Tensor>> {
        let bytes = match fs::read(&self.path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|err| Error::io(&self.path, err))?,
        };
        let refuse = |reason: String| Error::model(&self.path, reason);
        let broken = |err| refuse(format!("not a complete safetensors file of latents ({err})"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let latents = tensors.tensor(NAME).map_err(broken)?;
        let sides: Vec<_> = latents.shape().iter().map(|&side| side as i64).collect();
        if (latents.dtype(), sides.as_slice()) != (Dtype::F32, shape) {
            let reason = format!("its latents are {:?} {sides:?} instead of F32 {shape:?}", latents.dtype());
            return Err(refuse(reason));
        }
        let said = header.metadata().as_ref().and_then(|said| said.get(HASH));
        if said != Some(&self.hash(latents.data())) {
            return Err(refuse("its latents are not those that were written for this clip".into()));
        }
        Ok(Some(Tensor::f_from_data_size(latents.data(), shape, Kind::Float)?))
    }

    /// Writes latents, in float32, in place of whatever is there: all of them or, whenever the process ends, nothing.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Torch`] for latents of another kind.
    pub fn write(&self, latents: &Tensor) -> Result<()> {
        if latents.kind() != Kind::Float {
            return Err(Error::Torch(format!("latents of {:?} can't be kept", latents.kind())));
        }
        let latents = latents.f_to_device(Device::Cpu)?.f_contiguous()?;
        let bytes = Bytes::new(&latents.f_view_dtype(Kind::Uint8)?)?;
        let shape = latents.size().iter().map(|&side| side as usize).collect();
        let invalid = |err| Error::io(&self.path, io::Error::new(ErrorKind::InvalidData, err));
        let view = TensorView::new(Dtype::F32, shape, bytes.as_ref()).map_err(invalid)?;
        let said = HashMap::from([(HASH.into(), self.hash(bytes.as_ref()))]);
        let whole = safetensors::serialize([(NAME, view)], Some(said)).map_err(invalid)?;
        replace(&self.path, &whole).map_err(|err| Error::io(&self.path, err))
    }

    /// What tells that the tensor's bytes are whole, and those of this clip.
    fn hash(&self, bytes: &[u8]) -> String {
        sha256(&[self.key.as_bytes(), bytes])
    }
}

/// The key of the latents that weights from `files`, in the precision `kind` on such a device, make of a keyframe.
fn key(files: &[Stamp], device: Device, kind: Kind, keyframe: &Frame, params: &Params) -> String {
    let mut params = json!(params);
    if let Some(params) = params.as_object_mut() {
        params.retain(|name, _| !OTHERS.contains(&name.as_str()));
    }
    let file = |(path, size, time): &Stamp| {
        let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        json!([path.to_string_lossy(), size, time.map(|time| time.as_nanos() as u64)])
    };
    // Its objects' keys are in their alphabetical order.
    let all = json!({
        "version": VERSION,
        "model": files.iter().map(file).collect::<Json>(),
        "device": if device.is_cuda() { "cuda" } else { "cpu" },
        "dtype": kind_name(kind),
        "keyframe": [keyframe.width(), keyframe.height(), keyframe.channels(), sha256(&[keyframe.data()])],
        "params": params,
    });
    sha256(&[all.to_string().as_bytes()])
}

/// The SHA-256 of parts that follow one another, in hexadecimal.
fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    format!("{:x}", hasher.finalize())
}

/// Puts a file in the place of another, or of none, at once.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = part_of(path);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    // The name, too, should outlive the machine's end; where that can't be asked for, it mostly does.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    written
}

/// A name beside `path` that no other thread and, on this machine, no other process uses.
fn part_of(path: &Path) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    path.with_extension(format!("{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    const SHAPE: [i64; 5] = [1, 2, 4, 3, 5];

    fn file(folder: &Path) -> LatentsFile {
        LatentsFile { path: folder.join("clip.safetensors"), key: "clip".into() }
    }

    #[test]
    fn latents_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        assert!(file.read(&SHAPE).unwrap().is_none());
        let values = Tensor::randn(SHAPE, (Kind::Float, Device::Cpu));
        // Numbers that a way over text or another precision would lose, not contiguous.
        let odd = Tensor::from_slice(&[-0.0f32, f32::MIN_POSITIVE / 4.0, f32::MAX, 1.0 + f32::EPSILON]);
        values.get(0).get(1).select(2, 0).select(1, 0).copy_(&odd);
        let latents = values.transpose(3, 4).contiguous().transpose(3, 4);
        file.write(&latents).unwrap();
        file.write(&latents).unwrap();
        let read = file.read(&SHAPE).unwrap().unwrap();
        let bits =
            |latents: &Tensor| Vec::<i32>::try_from(latents.contiguous().view_dtype(Kind::Int).view(-1)).unwrap();
        assert_eq!(bits(&read), bits(&latents));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(file.write(&latents.to_kind(Kind::Half)).is_err());
    }

    #[test]
    fn what_is_not_whole_or_of_another_clip_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        file.write(&Tensor::ones(SHAPE, (Kind::Float, Device::Cpu))).unwrap();
        let whole = fs::read(&file.path).unwrap();
        let refused = |bytes: &[u8], shape: &[i64], part: &str| {
            fs::write(&file.path, bytes).unwrap();
            let message = file.read(shape).unwrap_err().to_string();
            assert!(message.contains("clip.safetensors: ") && message.contains(part), "{message}");
        };
        for length in [0, 7, 8, 100, whole.len() - 1] {
            refused(&whole[..length], &SHAPE, "not a complete safetensors file");
        }
        refused(&[whole.as_slice(), &[0]].concat(), &SHAPE, "not a complete safetensors file");
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        refused(&flipped, &SHAPE, "not those that were written for this clip");
        refused(&whole, &[1, 2, 4, 5, 3], "F32 [1, 2, 4, 3, 5] instead of F32 [1, 2, 4, 5, 3]");
        let other = LatentsFile { key: "other".into(), ..self::file(folder.path()) };
        assert!(other.read(&SHAPE).unwrap_err().to_string().ends_with("written for this clip"));
        let half = Tensor::ones(SHAPE, (Kind::Half, Device::Cpu));
        Tensor::write_safetensors(&[(NAME, half)], &file.path).unwrap();
        refused(&fs::read(&file.path).unwrap(), &SHAPE, "F16");
        fs::write(&file.path, &whole).unwrap();
        assert!(file.read(&SHAPE).unwrap().is_some());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        // A folder in its place, and no folder at all.
        fs::create_dir(&file.path).unwrap();
        let latents = Tensor::ones(SHAPE, (Kind::Float, Device::Cpu));
        let message = file.write(&latents).unwrap_err().to_string();
        assert!(message.contains("clip.safetensors: "), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(folder);
        assert!(file.write(&latents).is_err());
    }

    #[test]
    fn a_folder_is_made_or_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents");
        for _ in 0..2 {
            LatentsFolder::open(&path).unwrap();
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        }
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below"), folder.path().join("no/where"), "/proc".into()] {
            let message = LatentsFolder::open(&path).unwrap_err().to_string();
            assert!(message.starts_with(&format!("latents_folder={} is not possible", path.display())), "{message}");
        }
    }

    #[test]
    fn all_that_decides_the_latents_is_in_the_key() {
        let stamp = |path: &str, size, seconds| -> Vec<Stamp> {
            vec![(path.into(), size, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))]
        };
        let frame = |width, byte| Frame::new(width, 6 / width, 3, [vec![7; 17], vec![byte]].concat());
        let (files, picture, params) = (stamp("unet", 10, 20), frame(2, 7), Params::default());
        let first = key(&files, Device::Cpu, Kind::Float, &picture, &params);
        assert!(first.len() == 64 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
        let with = |change: fn(&mut Params)| {
            let mut params = params.clone();
            change(&mut params);
            key(&files, Device::Cpu, Kind::Float, &picture, &params)
        };
        let same = [
            with(|params| params.decode_chunk_size = 3),
            with(|params| params.decode_mode = crate::engine::svd::DecodeMode::Reference),
            with(|params| params.max_memory = 1 << 33),
        ];
        assert!(same.iter().all(|same| *same == first), "{same:?}");
        assert_eq!(
            key(&files, Device::Cuda(0), Kind::Float, &picture, &params),
            key(&files, Device::Cuda(1), Kind::Float, &picture, &params)
        );
        let of_files = |files: Vec<Stamp>| key(&files, Device::Cpu, Kind::Float, &picture, &params);
        let others = [
            with(|params| params.seed = 43),
            with(|params| params.num_inference_steps = 24),
            with(|params| params.sigmas = vec![700.0, 1.0]),
            with(|params| params.motion_bucket_id = 127.5),
            with(|params| params.keyframe_fit = crate::engine::image::Fit::Pad),
            of_files(stamp("vae", 10, 20)),
            of_files(stamp("unet", 11, 20)),
            of_files(stamp("unet", 10, 21)),
            of_files([stamp("unet", 10, 20), stamp("vae", 10, 20)].concat()),
            key(&files, Device::Cuda(0), Kind::Float, &picture, &params),
            key(&files, Device::Cpu, Kind::Half, &picture, &params),
            key(&files, Device::Cpu, Kind::Float, &frame(2, 8), &params),
            key(&files, Device::Cpu, Kind::Float, &frame(3, 7), &params),
        ];
        let mut all: Vec<_> = others.iter().chain([&first]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), others.len() + 1);
    }
}
