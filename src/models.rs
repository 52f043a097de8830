// SPDX-License-Identifier: MPL-2.0
//! Where the shipped models lie: the file or folder that is taken when a property names none.

use std::path::{Path, PathBuf};

/// The file or folder of the shipped model `name`, looked for in `$TORCHVIDEO_MODELS`, in the installed data folder
/// and in the build tree, in this order.
///
/// # Errors
/// A message that lists the places.
pub fn locate(name: &str) -> Result<PathBuf, String> {
    let named = std::env::var_os("TORCHVIDEO_MODELS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let installed = option_env!("TORCHVIDEO_DATADIR").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    locate_in(name, &[named, installed, Some(built)].into_iter().flatten().collect::<Vec<_>>())
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
}
