// SPDX-License-Identifier: MPL-2.0
//! The manual page torchvideo(5): what can stand in a configuration, as the elements' properties tell it.

use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::config::{Preset, Section};

/// What a scene has beside sections.
const SCENE: [(&str, &str, &str); 7] = [
    ("id", "a text or a number", "Its name, and that of its file. Each scene needs one of its own."),
    ("keyframe", "a path", "The picture that it begins with: a PNG, JPEG or WebP file."),
    ("audio", "a path", "A file with its sound, which goes in as it is."),
    ("notes", "a text", "Remarks."),
    ("duration", "seconds", "The same as duration in its video."),
    ("seed", "a whole number", "The same as seed in its video."),
    ("preset", "as above", "A plan of its own in the place of the file's; none is none."),
];

/// The page, for man. GStreamer must have been initialised.
pub fn manual() -> String {
    let mut page = Roff::new();
    let version = concat!("torchvideo ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["torchvideo", "5", "", version]);
    let section = |page: &mut Roff, name: &str| {
        page.control("SH", [name]);
    };
    section(&mut page, "NAME");
    page.text([roman("torchvideo - a job's settings and scenes in a YAML file")]);
    section(&mut page, "DESCRIPTION");
    page.text([roman(
        "A file has sections of settings, scenes that differ from them, and a plan below all. What a scene says goes before \
         what the file says, and that before the plan. Paths are relative to the file. Keys are the properties of GStreamer's \
         elements: num_frames is the property num-frames. What is left out is as the model recommends, or as \
         gst-inspect-1.0 tells.",
    )]);
    let key = |page: &mut Roff, name: &str, kind: &str, about: String| {
        page.control("TP", []).text([bold(name), roman("  "), italic(kind)]).text([roman(about)]);
    };
    section(&mut page, "PRESET");
    let plans = Preset::ALL.map(Preset::name).join(", ");
    key(&mut page, "preset", &plans, "A plan for Stable Video Diffusion XT.".into());
    for of in Section::ALL {
        section(&mut page, &of.name().to_uppercase());
        page.text([roman("Keys of "), bold(of.name()), roman(":")]);
        for known in of.keys() {
            key(&mut page, &known.name, &known.kind(), format!("{}.", known.about()));
        }
    }
    section(&mut page, "SCENES");
    page.text([
        bold("scenes"),
        roman(" is a list, or the name of a file with one. A scene has any section, and these keys:"),
    ]);
    for (name, kind, about) in SCENE {
        key(&mut page, name, kind, about.into());
    }
    section(&mut page, "SEE ALSO");
    page.text([bold("torchvideo"), roman("(1), "), bold("gst-launch-1.0"), roman("(1)")]);
    page.render()
}
