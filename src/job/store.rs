// SPDX-License-Identifier: MPL-2.0
//! A folder of finished files, and the manifest that says what each was made of. Whatever happens, a file under its final
//! name is whole: everything is written beside it and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

use super::Line;
use crate::config::{CONTAINERS, Scene, Section};
use crate::engine::device::DeviceChoice;
use crate::engine::svd::Source;
use crate::{frameratetune, realesrganscale, svd, svdsrc};

/// The name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// The file that is locked while a job writes to the folder.
const LOCK: &str = ".torchvideo.lock";

/// What a file was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The file's name in the folder.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// The SHA-256 of all that decides what is in it.
    pub key: String,
    /// Seconds since 1970 when it was finished.
    pub finished: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What made it.
    pub generator: String,
    /// The pipeline.
    pub pipeline: String,
    /// What was set, by key.
    pub settings: BTreeMap<String, Json>,
    /// The picture, the sound and the weights: `path`, and `sha256`, or `bytes` and `modified`.
    pub inputs: Vec<Json>,
    /// How each clip was made, as `svdsrc` tells it.
    pub clips: Vec<Json>,
}

/// The file `manifest.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    /// By the file's name. The first manifests had the scene's name there: they called it `scenes`.
    #[serde(alias = "scenes")]
    files: BTreeMap<String, Entry>,
}

impl Manifest {
    fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        let files = manifest.files.into_values().map(|entry| (entry.file.clone(), entry));
        Ok(Self { files: files.collect() })
    }
}

/// A folder in use.
pub struct Store {
    folder: PathBuf,
    manifest: Mutex<Manifest>,
    /// Locked as long as it is open.
    _lock: File,
}

impl Store {
    /// Takes a folder into use; makes it, if need be.
    ///
    /// # Errors
    /// In words, if it can't be written to, another job uses it, or its manifest is no manifest.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let wrong = |path: &Path, err: io::Error| format!("{}: {err}", path.display());
        if folder.is_file() {
            return Err(format!("{}: it is a file: name a folder", folder.display()));
        }
        fs::create_dir_all(folder).map_err(|err| wrong(folder, err))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(|err| wrong(&path, err))?;
        lock.try_lock().map_err(|err| match err {
            TryLockError::WouldBlock => {
                format!("{}: another torchvideo writes to it: wait for it, or use another --out", folder.display())
            }
            TryLockError::Error(err) => wrong(&path, err),
        })?;
        let path = folder.join(MANIFEST);
        let manifest = match fs::read(&path) {
            Ok(bytes) => Manifest::read(&bytes)
                .map_err(|err| format!("{}: it is no manifest ({err}): move it away", path.display()))?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Manifest::default(),
            Err(err) => return Err(wrong(&path, err)),
        };
        remove_parts(folder);
        Ok(Self { folder: folder.into(), manifest: Mutex::new(manifest), _lock: lock })
    }

    /// Whether the file of this name is there and was made of the same.
    pub fn has(&self, name: &str, key: &str) -> bool {
        let manifest = self.manifest.lock().unwrap();
        let entry = manifest.files.get(name).filter(|entry| entry.key == key);
        entry.is_some_and(|entry| {
            fs::metadata(self.folder.join(name)).is_ok_and(|data| data.is_file() && data.len() == entry.bytes)
        })
    }

    /// Where a file is written until it is whole.
    pub fn part(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.part"))
    }

    /// Where what is known of a clip in the making is kept for another try.
    pub fn latents(&self, id: &str) -> PathBuf {
        self.folder.join(format!(".{id}.latents"))
    }

    /// Removes what is known of a clip in the making: nobody needs it any more.
    pub fn forget(&self, id: &str) {
        // What can't be removed harms nobody.
        let _ = fs::remove_dir_all(self.latents(id));
    }

    /// Brings a file that is whole under its name, and into the manifest.
    ///
    /// # Errors
    /// In words, if it can't be written.
    pub fn finish(&self, id: &str, part: &Path, mut entry: Entry) -> Result<(), String> {
        let wrong = |err: io::Error| format!("{}: {err}", self.folder.join(&entry.file).display());
        let file = File::open(part).map_err(wrong)?;
        file.sync_all().map_err(wrong)?;
        entry.bytes = file.metadata().map_err(wrong)?.len();
        fs::rename(part, self.folder.join(&entry.file)).map_err(wrong)?;
        let mut manifest = self.manifest.lock().unwrap();
        manifest.files.insert(entry.file.clone(), entry);
        let path = self.folder.join(MANIFEST);
        let write = || -> io::Result<()> {
            let part = self.part(MANIFEST);
            let mut file = File::create(&part)?;
            serde_json::to_writer_pretty(&mut file, &*manifest)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|err| format!("{}: {err}", path.display()))?;
        self.forget(id);
        Ok(())
    }
}

/// Removes the files that jobs that were killed have left half written, whichever scenes they were of. None is written
/// now, as the folder is locked.
fn remove_parts(folder: &Path) {
    let names = CONTAINERS.map(|(container, _)| format!(".{container}.part"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_part = |name: &str| name.starts_with('.') && names.iter().any(|end| name.ends_with(end));
        if name.to_str().is_some_and(is_part) {
            // What can't be removed is overwritten, or harms nobody.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What a finished file in a folder was made of. `None` if the manifest does not tell of it.
pub fn entry(folder: &Path, name: &str) -> Option<Entry> {
    Manifest::read(&fs::read(folder.join(MANIFEST)).ok()?).ok()?.files.remove(name)
}

/// All that decides what a scene's file will be: its SHA-256, and the picture, the sound and the weights.
///
/// # Errors
/// In words, if a file can't be read.
pub fn key(scene: &Scene) -> Result<(String, Vec<Json>), String> {
    let mut inputs = Vec::new();
    for path in [&scene.keyframe, &scene.audio].into_iter().flatten() {
        let mut hash = Sha256::new();
        let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hash));
        read.map_err(|err| format!("{}: {err}", path.display()))?;
        inputs.push(json!({ "path": path.to_string_lossy(), "sha256": format!("{:x}", hash.finalize()) }));
    }
    for path in weights(scene)? {
        let data = fs::metadata(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        let modified = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.unwrap_or_default().as_nanos().to_string();
        inputs.push(json!({ "path": path.to_string_lossy(), "bytes": data.len(), "modified": modified }));
    }
    // The same job in another folder is the same job.
    let mut anywhere = scene.clone();
    anywhere.keyframe = scene.keyframe.as_ref().map(|_| PathBuf::from("keyframe"));
    anywhere.audio = scene.audio.as_ref().map(|_| PathBuf::from("audio"));
    anywhere.settings.retain(|(_, key), _| {
        !matches!(key.as_str(), "model_path" | "max_memory" | "device" | "folder" | "latents_folder")
    });
    let line = Line::of(&anywhere)?;
    let named = |input: &Json| {
        let mut input = input.clone();
        let name = input["path"].as_str().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
        input["path"] = name.into();
        input
    };
    let decides = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pipeline": line.text,
        "container": line.container,
        "inputs": inputs.iter().map(named).collect::<Vec<_>>(),
    });
    Ok((format!("{:x}", Sha256::digest(decides.to_string())), inputs))
}

/// The model that a scene's clips are made with, and where and in which precision it computes.
///
/// # Errors
/// In words what is wrong with the settings, the model or the device.
pub fn model(scene: &Scene) -> Result<(Source, Device, Kind), String> {
    let layer = scene.layer(Section::Video);
    let text = |err: crate::engine::Error| err.to_string();
    let settings = svd::settings::Settings::default().with_config(layer, &svdsrc::properties()).map_err(text)?;
    let (path, _) = svd::session::model(&settings)?;
    let source = Source::open(&path, settings.model_type()).map_err(text)?;
    let device = settings.device().parse::<DeviceChoice>().and_then(DeviceChoice::resolve).map_err(text)?;
    let kind = source.kind(settings.precision(), device).map_err(text)?;
    Ok((source, device, kind))
}

/// The files of weights that a scene takes.
fn weights(scene: &Scene) -> Result<Vec<PathBuf>, String> {
    let text = |err: crate::engine::Error| err.to_string();
    let (source, _, kind) = model(scene)?;
    let mut files = source.weight_files(kind).map_err(text)?;
    let postprocess = scene.layer(Section::Postprocess);
    if !postprocess.is_empty() {
        let file = realesrganscale::settings::Settings::of(&postprocess).model_file().map_err(text)?;
        files.push(file.path);
        files.extend(file.partner.map(|partner| partner.path));
    }
    let framerate = scene.layer(Section::Framerate);
    if !framerate.is_empty() {
        files.extend(frameratetune::settings::Settings::of(&framerate).model_file().ok());
    }
    Ok(files)
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
