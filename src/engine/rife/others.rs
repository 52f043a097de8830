// SPDX-License-Identifier: MPL-2.0
//! RIFE's other networks, known well enough to be named in an error.

use super::file::Shapes;

/// What is to be said of a file with these tensors, which are of no network that is known.
pub fn named(shapes: &Shapes) -> String {
    let has = |name: &str| shapes.keys().any(|key| key.starts_with(name));
    let outputs = |name: &str| shapes.get(name).map_or(0, |shape| shape[1.min(shape.len() - 1)]);
    let name = match (outputs("block0.lastconv.0.weight"), outputs("block0.lastconv.weight")) {
        (24, _) if has("encode.cnn0.") => "4.13 to 4.20, or 4.24",
        (24, _) => "4.7 to 4.12",
        (20, _) => "4.5 or 4.6",
        (_, 5) if has("block3.") => "4.0 to 4.4",
        _ if has("contextnet.") || has("flownet.") || has("unet.") => "the paper (ECCV 2022)",
        _ if has("block0.convblock0.") => "3",
        _ if has("block0.") && has("block2.") => "another version, perhaps 2 or 3",
        _ => {
            let few: Vec<_> = shapes.iter().take(3).map(|(name, shape)| format!("{name} {shape:?}")).collect();
            return format!("not a network of RIFE: it has {} tensors ({}, …)", shapes.len(), few.join(", "));
        }
    };
    format!("a network of RIFE {name}; use one from 4.21 on, but not 4.24: 4.25 is what its authors recommend")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_networks_are_named() {
        let named = |tensors: &[(&str, &[i64])]| {
            named(&tensors.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect())
        };
        for (tensors, name) in [
            ([("block0.lastconv.0.weight", [192, 24, 4, 4].as_slice()), ("encode.cnn0.bias", &[32])], "4.24;"),
            ([("block0.lastconv.0.weight", &[192, 24, 4, 4]), ("encode.0.bias", &[32])], "4.7 to 4.12;"),
            ([("block0.lastconv.0.weight", &[192, 20, 4, 4]), ("block0.lastconv.0.bias", &[20])], "4.5 or 4.6;"),
            ([("block0.lastconv.weight", &[192, 5, 4, 4]), ("block3.lastconv.bias", &[5])], "4.0 to 4.4;"),
            ([("block0.convblock0.0.0.weight", &[90, 90, 3, 3]), ("block_tea.conv1.0.bias", &[45])], "RIFE 3;"),
            ([("block0.lastconv.weight", &[240, 5, 4, 4]), ("unet.up0.0.bias", &[1])], "paper"),
            ([("conv.weight", &[]), ("conv.bias", &[3])], "not a network of RIFE: it has 2 tensors"),
        ] {
            let message = named(&tensors);
            assert!(message.contains(name), "{message}");
        }
    }
}
