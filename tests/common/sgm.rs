// SPDX-License-Identifier: MPL-2.0
//! Stability AI's layout of a model, made from diffusers' by the names that `tests/reference/svd_keys.py` has proven.

use std::collections::BTreeMap;

use tch::Tensor;

use super::file;

/// What the condition's own encoder is called in front of `encoder` and `quant_conv`.
pub const CONDITION: &str = "conditioner.embedders.3.encoder.";
/// What the CLIP tower is called in front of OpenCLIP's names, or of transformers'.
pub const TOWER: &str = "conditioner.embedders.0.open_clip.model.visual.";

/// One tensor: diffusers' name, Stability's, and which part of Stability's it is.
pub type Pair = (String, String, String);

/// The pairs of a network in `tests/fixtures/svd/sgm_keys.json`, of the size "full" or "small".
pub fn pairs(size: &str, network: &str) -> Vec<Pair> {
    let text = std::fs::read(file("tests/fixtures/svd/sgm_keys.json")).unwrap();
    let mut sizes: BTreeMap<String, BTreeMap<String, Vec<[String; 4]>>> = serde_json::from_slice(&text).unwrap();
    let rows = sizes.remove(size).unwrap().remove(network).unwrap();
    let names = |[new, old, ends, part]: [String; 4]| -> Vec<Pair> {
        let with = |path: &str, end: &str| if end.is_empty() { path.to_owned() } else { format!("{path}.{end}") };
        ends.split(' ').map(|end| (with(&new, end), with(&old, end), part.clone())).collect()
    };
    rows.into_iter().flat_map(names).collect()
}

/// Stability's tensors of a network, by name, from diffusers'. Parts that belong together become one again.
pub fn convert(pairs: &[Pair], tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut thirds: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
    let mut converted = BTreeMap::new();
    let known: BTreeMap<_, _> = pairs.iter().map(|(new, old, part)| (new.as_str(), (old.as_str(), part))).collect();
    // In the order of queries, keys and values.
    let mut sorted: Vec<_> = tensors.iter().map(|(name, tensor)| (known[name.as_str()], tensor)).collect();
    sorted.sort_by_key(|((_, part), _)| part.as_str());
    for ((old, part), tensor) in sorted {
        let tensor = match part.as_str() {
            "" => tensor.shallow_clone(),
            "T" => tensor.tr().contiguous(),
            "M" => tensor.unsqueeze(-1).unsqueeze(-1),
            _ => {
                thirds.entry(old).or_default().push(tensor);
                continue;
            }
        };
        converted.insert(old.to_owned(), tensor);
    }
    converted.extend(thirds.into_iter().map(|(name, parts)| {
        assert_eq!(parts.len(), 3, "{name}");
        (name.to_owned(), Tensor::cat(&parts, 0))
    }));
    converted
}

/// The VAE as Stability's files have it: `quant_conv` stands beside an encoder of the condition's own, and is part of
/// the last convolution of the first stage's.
pub fn convert_vae(pairs: &[Pair], tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut tensors: BTreeMap<_, _> = tensors.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
    let quant = ["weight", "bias"].map(|role| tensors.remove(&format!("quant_conv.{role}")).unwrap());
    let mut converted = convert(pairs, &tensors);
    let encoder: Vec<_> = converted
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("first_stage_model.")?, tensor.shallow_clone())))
        .filter(|(name, _)| name.starts_with("encoder."))
        .map(|(name, tensor)| (format!("{CONDITION}{name}"), tensor))
        .collect();
    converted.extend(encoder);
    let [weight, bias] = &quant;
    let last = ["weight", "bias"].map(|role| format!("first_stage_model.encoder.conv_out.{role}"));
    let matrix = weight.flatten(1, -1);
    let folded = matrix.matmul(&converted[&last[0]].flatten(1, -1)).view_as(&converted[&last[0]]);
    let shifted = matrix.matmul(&converted[&last[1]]) + bias;
    let [weight_name, bias_name] = last;
    converted.extend([(weight_name, folded), (bias_name, shifted)]);
    let [weight, bias] = quant;
    converted
        .extend([(format!("{CONDITION}quant_conv.weight"), weight), (format!("{CONDITION}quant_conv.bias"), bias)]);
    converted
}
