// SPDX-License-Identifier: MPL-2.0
//! How elements take a file: the properties that name it, and what it says to each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gst::prelude::*;

use super::{Config, Error, Preset, Result, Section, Settings, Wanted};
use crate::engine::Error as EngineError;
use crate::engine::svd::Params;
use crate::settings::{Layer, from_json};
use crate::{frameratetune, realesrganscale, svd, svdsrc};

/// The properties `config`, `scene-id` and `preset`.
pub fn properties() -> Vec<glib::ParamSpec> {
    let text = |name, nick, blurb| glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).mutable_ready().build();
    vec![
        text(
            "config",
            "Configuration",
            "A YAML file with settings, as pipelines/current.yaml: they hold for the properties that are not set by hand",
        ),
        text(
            "scene-id",
            "Scene",
            "The scene of the configuration whose settings hold (unset = the only one, if there is one)",
        ),
        glib::ParamSpecEnum::builder::<Preset>("preset")
            .nick("Preset")
            .blurb("A recommended plan: its settings go before those of the configuration, and after those set by hand")
            .mutable_ready()
            .build(),
    ]
}

/// What was set of these properties, and which others were set by hand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// The file.
    pub config: Option<PathBuf>,
    /// The scene in it.
    pub scene_id: Option<String>,
    /// The plan.
    pub preset: Preset,
    by_hand: BTreeSet<String>,
}

impl Source {
    /// Notes that a property was set; true if it is one of these.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let text = || value.get::<Option<String>>().ok().flatten().filter(|text| !text.is_empty());
        match name {
            "config" => self.config = text().map(PathBuf::from),
            "scene-id" => self.scene_id = text(),
            "preset" => self.preset = value.get().unwrap_or_default(),
            name => {
                self.by_hand.insert(name.into());
                return false;
            }
        }
        true
    }

    /// The value of one of these.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        match name {
            "config" => Some(self.config.as_ref().map(|path| path.to_string_lossy().into_owned()).to_value()),
            "scene-id" => Some(self.scene_id.to_value()),
            "preset" => Some(self.preset.to_value()),
            _ => None,
        }
    }

    /// The values that the file has for the properties of a section that were not set by hand.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn values(
        &self,
        section: Section,
        specs: &[glib::ParamSpec],
    ) -> Result<Vec<(String, glib::Value)>, gst::ErrorMessage> {
        let layer = layer(self.config.as_deref(), self.scene_id.as_deref(), self.preset, section)?;
        let free = layer.iter().filter(|(name, _)| !self.by_hand.contains(*name));
        let value = |(name, json): (&String, _)| {
            let spec = specs.iter().find(|spec| spec.name() == name)?;
            Some((name.clone(), from_json(spec, json).ok()?))
        };
        Ok(free.filter_map(value).collect())
    }
}

/// What a file, a scene of it and a plan say to an element, by the properties' names.
///
/// # Errors
/// The message to post.
pub fn layer(
    config: Option<&Path>,
    scene_id: Option<&str>,
    preset: Preset,
    section: Section,
) -> Result<Layer, gst::ErrorMessage> {
    let wanted = Wanted { preset: Some(preset).filter(|preset| *preset != Preset::None), ..Wanted::default() };
    let error = |err: Error| gst::error_msg!(gst::LibraryError::Settings, ("{err}"));
    let Some(path) = config else {
        if let Some(id) = scene_id {
            let message = format!("scene-id={id} is not possible: config names no file that it could be in");
            return Err(gst::error_msg!(gst::LibraryError::Settings, ("{message}")));
        }
        return Ok(super::layer(&preset.settings().map_err(error)?, section));
    };
    let config = Config::open(path, &wanted).map_err(error)?;
    let scene = match (scene_id, config.scenes()) {
        (Some(id), _) => Some(config.scene(id).map_err(error)?),
        (None, [only]) => Some(only),
        // What makes pictures bigger or smoother is a part of a scene; what makes clips may be given another picture.
        (None, [first, others @ ..]) if section != Section::Video => {
            if others.iter().any(|scene| scene.layer(section) != first.layer(section)) {
                return Err(error(config.several(section)));
            }
            Some(first)
        }
        (None, _) => None,
    };
    let mut layer = super::layer(scene.map_or(config.settings(), |scene| &scene.settings), section);
    if let (Section::Video, Some(keyframe)) = (section, scene.and_then(|scene| scene.keyframe.as_ref())) {
        layer.insert("location".into(), keyframe.to_string_lossy().into_owned().into());
    }
    Ok(layer)
}

/// Checks settings as the elements would.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let of = |section| super::layer(settings, section);
    let video = || {
        let set = svd::settings::Settings::default().with_config(of(Section::Video), &svdsrc::properties())?;
        set.plan(&Params::default()).map(drop)
    };
    let postprocess = || realesrganscale::check(&of(Section::Postprocess));
    let framerate = || frameratetune::check(&of(Section::Framerate));
    let checked = [(Section::Video, video()), (Section::Postprocess, postprocess()), (Section::Framerate, framerate())];
    for (section, result) in checked {
        let Err(err) = result else { continue };
        let (name, message) = match err {
            EngineError::Param { name, value, expected } => {
                (name.replace('-', "_"), format!("{value} is not possible: {expected}"))
            }
            err => (String::new(), err.to_string()),
        };
        // What is wrong may be what another key was not told to be.
        let setting = settings
            .get(&(section, name.clone()))
            .or_else(|| settings.iter().find(|((of, _), _)| *of == section).map(|(_, setting)| setting));
        return Err(match setting {
            Some(setting) if setting.place.last() == Some(&name.as_str().into()) => setting.wrong(message),
            Some(setting) => setting.wrong(format!("{name}: {message}")),
            None => unreachable!("nothing is wrong with what is not set"),
        });
    }
    Ok(())
}
