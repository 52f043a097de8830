// SPDX-License-Identifier: MPL-2.0
//! Where models lie: the file or folder that is taken when a property names none.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use tch::Kind;

use crate::engine::svd::{ModelType, Source, hub};
use crate::engine::{Error, Result as EngineResult};

/// The file or folder of the shipped model `name`, looked for in `$TORCHVIDEO_MODELS`, in the installed data folder
/// and in the build tree, in this order.
///
/// # Errors
/// A message that lists the places.
pub fn locate(name: &str) -> Result<PathBuf, String> {
    locate_in(name, &folders())
}

/// The model's file: `named`, or else the shipped model `default`. `kinds` says what sort of file it should be, and
/// `origin` where the networks come from.
///
/// # Errors
/// [`Error::Io`] if it is not there, [`Error::Model`] for a folder.
pub fn file(named: Option<&Path>, default: &str, kinds: &str, origin: &str) -> EngineResult<PathBuf> {
    let missing = |reason| {
        let reason = format!("model-path is not set, and {reason}");
        Error::io(Path::new(default), io::Error::new(io::ErrorKind::NotFound, reason))
    };
    let path = named.map(|path| Ok(path.into())).unwrap_or_else(|| locate(default).map_err(missing))?;
    let data = path.metadata().map_err(|err| {
        let is_missing = err.kind() == io::ErrorKind::NotFound;
        let reason = is_missing.then(|| io::Error::new(err.kind(), format!("{err}. To get it: {origin}")));
        Error::io(&path, reason.unwrap_or(err))
    })?;
    if data.is_dir() {
        return Err(Error::model(&path, format!("it is a folder: name a {kinds} file")));
    }
    Ok(path)
}

/// The folder or file of one of Stability AI's models, looked for in the same places, by the names that people give
/// it, and then in the Hugging Face cache. Only a whole model is taken.
///
/// # Errors
/// A message that lists the places, what was wrong with what was there, and how to get the model.
pub fn find_svd(model_type: ModelType) -> Result<PathBuf, String> {
    find_svd_in(model_type, &folders(), &hubs(|name| std::env::var_os(name)))
}

/// The folders that models are looked for in, by whatever name.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("TORCHVIDEO_MODELS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let installed = option_env!("TORCHVIDEO_DATADIR").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    [named, installed, Some(built)].into_iter().flatten().collect()
}

/// Where huggingface_hub keeps its cache, by these environment variables, the most particular first.
fn hubs(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name, below| Some(PathBuf::from(variable(name).filter(|value| !value.is_empty())?).join(below));
    let mut hubs: Vec<PathBuf> = [
        folder("HF_HUB_CACHE", ""),
        folder("HUGGINGFACE_HUB_CACHE", ""),
        folder("HF_HOME", "hub"),
        folder("XDG_CACHE_HOME", "huggingface/hub"),
        folder("HOME", ".cache/huggingface/hub"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut seen = std::collections::HashSet::new();
    hubs.retain(|hub| seen.insert(hub.components().collect::<PathBuf>()));
    hubs
}

fn locate_in(name: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    let places: Vec<_> = folders.iter().map(|folder| folder.join(name)).collect();
    places.iter().find(|place| place.exists()).cloned().ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        format!(
            "the model {name} is not there: looked for {}; TORCHVIDEO_MODELS can name the folder that holds it",
            places.join(", ")
        )
    })
}

/// [`find_svd`] in these folders, and in these caches of the Hugging Face hub.
///
/// # Errors
/// As [`find_svd`].
pub fn find_svd_in(model_type: ModelType, folders: &[PathBuf], hubs: &[PathBuf]) -> Result<PathBuf, String> {
    let repository = model_type.repository();
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let names = [name, model_type.name(), model_type.file_name()];
    let by_name = folders.iter().flat_map(|folder| names.map(|name| folder.join(name)));
    let cached = hubs.iter().map(|hub| hub::repository(hub, repository));
    let mut wrong = Vec::new();
    for place in by_name.chain(cached) {
        // A link that leads nowhere is worth a word, too.
        if place.exists() || place.is_symlink() {
            match whole(&place, model_type) {
                Ok(path) => return Ok(path),
                Err(err) => wrong.push(err.to_string()),
            }
        }
    }
    let list =
        |folders: &[PathBuf]| folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut message = format!(
        "the model {model_type} is not there: looked for {} in {}, and for {repository} in the Hugging Face cache ({})",
        names.join(", "),
        list(folders),
        list(hubs),
    );
    if !wrong.is_empty() {
        message += &format!("; found, but not whole: {}", wrong.join("; "));
    }
    message += &format!(
        ". To get it, accept its licence at https://huggingface.co/{repository} (non-commercial, unless one is a \
         member), then: hf auth login && hf download {repository} --include \"*.json\" \"*.fp16.safetensors\""
    );
    Err(message)
}

/// Where the whole model at `place` is.
fn whole(place: &Path, model_type: ModelType) -> EngineResult<PathBuf> {
    let source = Source::open(place, Some(model_type))?;
    // Files are there for one precision if they are for another.
    source.weight_files(Kind::Half)?;
    Ok(source.path().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_the_model_wins() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["a", "b", "c"].map(|name| dir.path().join(name));
        for folder in &folders[1..] {
            std::fs::create_dir_all(folder.join("net")).unwrap();
        }
        assert_eq!(locate_in("net", &folders).unwrap(), folders[1].join("net"));
    }

    #[test]
    fn every_place_is_named() {
        let message = locate_in("net", &["/nowhere/a".into(), "/nowhere/b".into()]).unwrap_err();
        assert!(message.contains("/nowhere/a/net, /nowhere/b/net"), "{message}");
        assert!(locate("no such net").unwrap_err().contains("models/no such net"));
    }

    #[test]
    fn the_hugging_face_cache_is_where_its_variables_say() {
        let hubs = |set: &[(&str, &str)]| {
            hubs(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)))
        };
        assert_eq!(hubs(&[("HOME", "/home/me")]), [Path::new("/home/me/.cache/huggingface/hub")]);
        let all = hubs(&[
            ("HOME", "/home/me"),
            ("XDG_CACHE_HOME", "/cache"),
            ("HF_HOME", "/hf"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/hub"),
        ]);
        let wanted = ["/hub", "/old", "/hf/hub", "/cache/huggingface/hub", "/home/me/.cache/huggingface/hub"];
        assert_eq!(all, wanted.map(Path::new));
        // The same place twice, and variables without a value.
        assert_eq!(hubs(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hf/hub/"), ("HOME", "")]), [Path::new("/hf/hub")]);
    }
}
