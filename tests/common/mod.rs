// SPDX-License-Identifier: MPL-2.0
//! What the integration tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub mod recipe;
pub mod tiny_svd;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gsttorchvideo::engine::weights::Weights;
use tch::{Device, Kind, Tensor};

/// Names and shapes.
pub type Keys = Vec<(String, Vec<i64>)>;

/// A file of tensors and JSON that a script in tests/reference has made.
pub struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    meta: BTreeMap<String, String>,
}

impl Fixture {
    /// Opens a file under tests/fixtures.
    pub fn open(name: &str) -> Self {
        let path = fixture_path(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Self { tensors: Tensor::read_safetensors(path).unwrap().into_iter().collect(), meta }
    }

    /// A tensor of the file.
    pub fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}")).shallow_clone()
    }

    /// A value of the file's metadata.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_str(self.meta.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))).unwrap()
    }

    /// An input by the recipe, in [-1, 1).
    pub fn input(&self, name: &str) -> Tensor {
        let inputs: BTreeMap<String, Vec<i64>> = self.json("inputs");
        Tensor::from_slice(&recipe::sample(name, &inputs[name])).view(inputs[name].as_slice())
    }

    /// The weights that `keys` of the metadata names, by the recipe.
    pub fn weights(&self, keys: &str) -> Weights {
        Weights::from_tensors("recipe", recipe_tensors(&self.json(keys)), Device::Cpu, Kind::Float)
    }
}

/// The path of a file under tests/fixtures.
pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Weights by the recipe.
pub fn recipe_tensors(keys: &Keys) -> Vec<(String, Tensor)> {
    let tensor = |(name, shape): &(String, Vec<i64>)| {
        (name.clone(), Tensor::from_slice(&recipe::weight(name, shape)).view(shape.as_slice()))
    };
    keys.iter().map(tensor).collect()
}

/// The largest difference between two tensors of one shape.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes differ");
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Asserts that two tensors differ by at most `tolerance`, and says by how much they do.
pub fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    let found = difference(a, b);
    println!("{what}: {found:.1e}");
    assert!(found <= tolerance, "{what} differs by {found:e}, more than {tolerance:e}");
}

/// The same, relative to the largest value of `b`.
pub fn assert_close_relative(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_close(what, a, b, tolerance * b.abs().max().double_value(&[]));
}
