// SPDX-License-Identifier: MPL-2.0
//! The recommended plans, whose numbers are in `pipelines/presets.yaml`.

use std::path::Path;
use std::sync::Arc;

use super::layers::{Layers, known, mapping};
use super::yaml::Document;
use super::{Origin, Result, Settings};

/// The property `preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstTorchVideoPreset")]
pub enum Preset {
    /// None of them.
    #[default]
    #[enum_value(name = "None: what is set, and the model's own values", nick = "none")]
    None,
    /// Plan A.
    #[enum_value(name = "Balanced: plan A, clearly better at moderate cost", nick = "balanced")]
    Balanced,
    /// Plan B.
    #[enum_value(name = "Quality: plan B, the best, for much memory", nick = "quality")]
    Quality,
    /// Plan C.
    #[enum_value(name = "Speed: plan C, a little better in the same memory", nick = "speed")]
    Speed,
}

const TEXT: &str = include_str!("../../pipelines/presets.yaml");

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Balanced, Self::Quality, Self::Speed];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Balanced => "balanced",
            Self::Quality => "quality",
            Self::Speed => "speed",
        }
    }

    /// The plan of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// Its settings.
    ///
    /// # Errors
    /// Those of the file, which a test has read.
    pub(super) fn settings(self) -> Result<Settings> {
        let mut settings = Settings::new();
        let document = Arc::new(Document::parse(Path::new("presets.yaml"), TEXT.into())?);
        let top = mapping(&document, document.root(), &[])?;
        known(&document, top, &[], &Self::ALL.map(Self::name))?;
        if let Some(plan) = top.get(self.name()) {
            let place = vec![self.name().into()];
            let map = mapping(&document, plan, &place)?;
            Layers { document: &document, map, place, origin: Origin::Preset(self) }.add(&mut settings)?;
        }
        Ok(settings)
    }
}
