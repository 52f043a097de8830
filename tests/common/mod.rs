// SPDX-License-Identifier: MPL-2.0
//! What the tests share: fixtures, the recipe for their weights and inputs, and a measure of error.
#![allow(dead_code)] // Every test file uses its own part.

pub mod behaviour;
pub mod recipe;
pub mod sgm;
pub mod svd;
pub mod tiny_svd;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use gst::prelude::*;
use gsttorchvideo::engine::image::Frame;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

/// Registers the elements, once.
pub fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gsttorchvideo::plugin_register_static().unwrap();
    });
}

/// Plays a line to its end.
pub fn play(line: &str) -> gst::Pipeline {
    let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Pipeline>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::NONE, &kinds).unwrap();
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline
}

/// A file in the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A Python that has GStreamer's bindings of these names, and NumPy.
pub fn python(bindings: &[&str]) -> &'static str {
    let require: String = bindings.iter().map(|name| format!("gi.require_version('{name}', '1.0'); ")).collect();
    let has_all = |python: &&str| {
        let mut command = std::process::Command::new(python);
        let output = command.args(["-c", &format!("import gi, numpy; {require}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_all);
    found.unwrap_or_else(|| panic!("no Python with NumPy and GStreamer's {bindings:?}; `make setup` installs them"))
}

/// A file of reference answers: tensors, and metadata.
pub struct Fixture {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Fixture {
    /// Opens `tests/fixtures/{name}.safetensors`.
    pub fn open(name: &str) -> Self {
        let path = file(&format!("tests/fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { bytes, metadata }
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Tensor {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap_or_else(|err| panic!("{name}: {err}"));
        let shape: Vec<_> = view.shape().iter().map(|&side| side as i64).collect();
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::U8 => Kind::Uint8,
            Dtype::I64 => Kind::Int64,
            other => panic!("{name} has the type {other:?}"),
        };
        Tensor::f_from_data_size(view.data(), &shape, kind).unwrap()
    }

    /// The picture `name`, stored as uint8 (height, width, channels).
    pub fn picture(&self, name: &str) -> Frame {
        let tensor = self.tensor(name);
        let (height, width, channels) = tensor.size3().unwrap();
        let bytes = Vec::<u8>::try_from(tensor.view(-1)).unwrap();
        Frame::new(width as usize, height as usize, channels as usize, bytes)
    }

    /// The metadata `name` as it is.
    pub fn text(&self, name: &str) -> &str {
        self.metadata.get(name).unwrap_or_else(|| panic!("no metadata {name}"))
    }

    /// The metadata `name`, which is JSON.
    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(self.text(name)).unwrap()
    }

    /// The metadata `name`, which is JSON, as a type.
    pub fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_str(self.text(name)).unwrap()
    }

    /// An input by the recipe, in [-1, 1).
    pub fn input(&self, name: &str) -> Tensor {
        recipe::sample(name, &shape(&self.json("inputs")[name]))
    }

    /// The weights that the metadata `name` lists as [[name, shape], …].
    pub fn weights(&self, name: &str) -> Vec<(String, Tensor)> {
        let list = self.json(name);
        let list = list.as_array().unwrap().iter();
        list.map(|entry| {
            let (name, shape) = (entry[0].as_str().unwrap(), shape(&entry[1]));
            (name.to_owned(), recipe::weight(name, &shape))
        })
        .collect()
    }

    /// The names and shapes that the metadata `inputs` lists as {name: shape}.
    pub fn inputs(&self) -> Vec<(String, Vec<i64>)> {
        let inputs = self.json("inputs");
        inputs.as_object().unwrap().iter().map(|(name, value)| (name.clone(), shape(value))).collect()
    }
}

fn shape(value: &serde_json::Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|side| side.as_i64().unwrap()).collect()
}

/// The largest difference over the largest reference value.
pub fn relative_error(seen: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(seen.size(), wanted.size());
    let (seen, wanted) = (seen.to_device(Device::Cpu).to_kind(Kind::Double), wanted.to_kind(Kind::Double));
    f64::try_from((seen - &wanted).abs().max() / wanted.abs().max()).unwrap()
}

/// Asserts that two tensors differ by at most `tolerance`, and says by how much they do.
pub fn assert_close(what: &str, seen: &Tensor, wanted: &Tensor, tolerance: f64) {
    assert_eq!(seen.size(), wanted.size(), "{what}");
    let found = (seen.to_kind(Kind::Double) - wanted.to_kind(Kind::Double)).abs().max().double_value(&[]);
    println!("{what}: {found:.1e}");
    assert!(found <= tolerance, "{what} differs by {found:e}, more than {tolerance:e}");
}

/// The largest difference of two pictures' bytes.
pub fn difference(seen: &Frame, wanted: &Frame) -> u8 {
    assert_eq!((seen.width(), seen.height(), seen.channels()), (wanted.width(), wanted.height(), wanted.channels()));
    seen.data().iter().zip(wanted.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// A picture of noise.
pub fn noise(width: i64, height: i64, channels: i64) -> Frame {
    let values = recipe::uniform("picture", &[height, width, channels]);
    let bytes = values.iter().map(|v| ((v + 1.0) / 2.0 * 255.0) as u8).collect();
    Frame::new(width as usize, height as usize, channels as usize, bytes)
}

/// How a safetensors file of float16 tensors begins, and how many bytes of theirs must follow.
pub fn safetensors_header(shapes: &BTreeMap<String, Vec<i64>>, metadata: &[(&str, &str)]) -> (Vec<u8>, usize) {
    let (mut header, mut offset) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let end = offset + 2 * shape.iter().product::<i64>();
        header.insert(name.clone(), serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
    header.insert("__metadata__".into(), serde_json::to_value(metadata).unwrap());
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    ([&(header.len() as u64).to_le_bytes(), header.as_slice()].concat(), offset as usize)
}

/// Writes the network of `tests/fixtures/esrgan/{name}` with the recipe's weights, each as `change` makes it, to a
/// file that lives as long as its folder.
pub fn recipe_file(name: &str, change: impl Fn(&str, &Tensor) -> Tensor) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let weights = Fixture::open(&format!("esrgan/{name}")).weights("keys");
    let weights: Vec<_> = weights.iter().map(|(name, tensor)| (name, change(name, tensor))).collect();
    Tensor::write_safetensors(&weights, &path).unwrap();
    (folder, path)
}

/// Changes a SRVGGNetCompact so that it computes the same, but with numbers of a million after its first layer.
pub fn beyond_float16(name: &str, tensor: &Tensor) -> Tensor {
    match name {
        "body.0.weight" | "body.0.bias" => tensor * 1e6,
        "body.2.weight" => tensor * 1e-6,
        _ => tensor.shallow_clone(),
    }
}
