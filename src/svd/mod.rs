// SPDX-License-Identifier: MPL-2.0
//! What `svdsrc` and `svdanimate` share: properties, the model in use, clips in the making, and what is told of them.

use std::cell::Cell;
use std::ffi::c_char;
use std::sync::OnceLock;

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};
use serde_json::Value as Json;

use crate::engine::image::Frame;
use crate::engine::{Error, Result};
use crate::video;

pub mod clip;
pub mod keyframe;
pub mod pace;
pub mod plan;
pub mod preview;
pub mod provenance;
pub mod session;
pub mod settings;

// The nicks of these enumerations are the names that the engine's parameters are read by.

/// The property `keyframe-fit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdKeyframeFit")]
pub enum KeyframeFit {
    /// The middle of the picture.
    #[default]
    #[enum_value(name = "Crop: the middle of the picture; what sticks out is cut off", nick = "crop")]
    Crop,
    /// The whole picture with bars.
    #[enum_value(name = "Pad: the whole picture with black bars", nick = "pad")]
    Pad,
    /// The whole picture, out of proportion.
    #[enum_value(name = "Stretch: the whole picture, out of proportion", nick = "stretch")]
    Stretch,
}

/// The property `schedule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdSchedule")]
pub enum Schedule {
    /// As SVD's own scheduler.
    #[default]
    #[enum_value(name = "Karras: as SVD's own scheduler has it", nick = "karras")]
    Karras,
    /// "Align Your Steps".
    #[enum_value(name = "AYS: \"Align Your Steps\", 10 steps that do for 25", nick = "ays")]
    Ays,
}

/// The property `guidance-shape`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdGuidanceShape")]
pub enum GuidanceShape {
    /// A line over the frames.
    #[default]
    #[enum_value(name = "Linear: from the minimum at the first frame to the maximum at the last", nick = "linear")]
    Linear,
    /// A triangle over the frames.
    #[enum_value(name = "Triangle: the minimum at both ends, the maximum in the middle", nick = "triangle")]
    Triangle,
    /// The same for all frames.
    #[enum_value(name = "Constant: the maximum at every frame", nick = "constant")]
    Constant,
}

/// The property `decode-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdDecodeMode")]
pub enum DecodeMode {
    /// Chunks don't show.
    #[default]
    #[enum_value(name = "Exact: the same clip whatever the chunks", nick = "exact")]
    Exact,
    /// Chunks as diffusers makes them.
    #[enum_value(
        name = "Reference: chunk by chunk as diffusers does it, with flicker where chunks meet",
        nick = "reference"
    )]
    Reference,
}

/// The property `model-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdModelType")]
pub enum ModelType {
    /// What the model says of itself.
    #[default]
    #[enum_value(name = "Auto: what the model at model-path says of itself", nick = "auto")]
    Auto,
    /// SVD.
    #[enum_value(name = "SVD: Stable Video Diffusion, 14 frames", nick = "svd")]
    Svd,
    /// SVD-XT.
    #[enum_value(name = "SVD-XT: Stable Video Diffusion XT, 25 frames", nick = "svd-xt")]
    SvdXt,
    /// SVD-XT 1.1.
    #[enum_value(
        name = "SVD-XT 1.1: the same, tuned for 6 frames per second and motion bucket 127",
        nick = "svd-xt-1.1"
    )]
    SvdXt11,
}

/// Where the frame of this number begins at a rate. `None` after the end of time.
pub fn time(frame: u64, fps: gst::Fraction) -> Option<gst::ClockTime> {
    let time = u128::from(frame) * u128::from(gst::ClockTime::SECOND.nseconds()) * fps.denom() as u128;
    u64::try_from(time / fps.numer() as u128).ok().map(gst::ClockTime::from_nseconds)
}

/// A buffer with a frame in it, without times.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn frame_buffer(frame: Frame, info: &VideoInfo) -> Result<gst::Buffer> {
    if info.format() == VideoFormat::Rgb && info.stride()[0] as usize == frame.width() * 3 && frame.channels() == 3 {
        // As it is.
        return Ok(gst::Buffer::from_mut_slice(frame.into_data()));
    }
    let size = info.size();
    let full = |_| Error::OutOfMemory(format!("a buffer of {size} bytes"));
    let mut buffer = gst::Buffer::with_size(size).map_err(full)?;
    {
        let buffer = buffer.get_mut().expect("a new buffer has one owner");
        let target = VideoFrameRef::from_buffer_ref_writable(buffer, info);
        video::write(&frame, &mut target.expect("the buffer has the format's size"));
    }
    Ok(buffer)
}

/// What a file should say of the clips in it. The scope is global, or they would put it where few look.
fn tags(provenance: &Json) -> gst::TagList {
    let mut tags = gst::TagList::new();
    let list = tags.get_mut().expect("a new list has one owner");
    list.set_scope(gst::TagScope::Global);
    list.add::<gst::tags::Encoder>(
        &concat!("gst-plugin-torchvideo ", env!("CARGO_PKG_VERSION")),
        gst::TagMergeMode::Replace,
    );
    list.add::<gst::tags::Comment>(&provenance.to_string().as_str(), gst::TagMergeMode::Replace);
    tags
}

/// Properties that a preset does not keep: it says how clips look, not what they show, how many there are, or what is
/// kept of them.
const NO_PRESET: [&str; 12] = [
    "name",
    "parent",
    "location",
    "keyframe",
    "num-clips",
    "chain",
    "duration",
    "is-live",
    "idle",
    "latents-folder",
    "provenance",
    // Another name of a property that is kept.
    "guidance-scale",
];

/// An element that presets are of.
pub trait Presets {
    /// Whether a property was set by hand.
    fn is_set(&self, name: &str) -> bool;
}

thread_local! {
    /// Whether this thread saves a preset.
    static SAVING: Cell<bool> = const { Cell::new(false) };
}

/// Sets the interface of presets up. A preset that is saved has what was set by hand and nothing else: a default that
/// was set goes before what a model recommends.
pub fn init_preset<T>(interface: &mut glib::Interface<gst::Preset>)
where
    T: ObjectSubclass + Presets,
    T::Type: IsA<glib::Object>,
{
    type Save = unsafe extern "C" fn(*mut gst::ffi::GstPreset, *const c_char) -> glib::ffi::gboolean;
    /// What the interface itself does.
    static SAVE: OnceLock<Save> = OnceLock::new();

    fn names<T>(preset: *mut gst::ffi::GstPreset) -> Vec<glib::GString>
    where
        T: ObjectSubclass + Presets,
        T::Type: IsA<glib::Object>,
    {
        // SAFETY: GStreamer asks an object of the class whose interface this is.
        let imp = unsafe { &*preset.cast::<T::Instance>() }.imp();
        let is_kept = |name: &str| !NO_PRESET.contains(&name) && (!SAVING.get() || imp.is_set(name));
        let properties = imp.obj().list_properties();
        properties.iter().map(|spec| spec.name()).filter(|name| is_kept(name)).map(glib::GString::from).collect()
    }
    unsafe extern "C" fn list<T>(preset: *mut gst::ffi::GstPreset) -> *mut *mut c_char
    where
        T: ObjectSubclass + Presets,
        T::Type: IsA<glib::Object>,
    {
        // GStreamer frees the list and its texts.
        glib::StrV::from_iter(names::<T>(preset)).into_raw()
    }
    unsafe extern "C" fn save<T>(preset: *mut gst::ffi::GstPreset, name: *const c_char) -> glib::ffi::gboolean
    where
        T: ObjectSubclass + Presets,
        T::Type: IsA<glib::Object>,
    {
        SAVING.set(true);
        let saved = match SAVE.get() {
            // SAFETY: as it would have been called.
            Some(save) if !names::<T>(preset).is_empty() => unsafe { save(preset, name) },
            _ => glib::ffi::GFALSE,
        };
        SAVING.set(false);
        saved
    }
    let interface = AsMut::<gst::ffi::GstPresetInterface>::as_mut(interface);
    interface.get_property_names = Some(list::<T>);
    if let Some(of_interface) = interface.save_preset.replace(save::<T>) {
        SAVE.get_or_init(|| of_interface);
    }
}
