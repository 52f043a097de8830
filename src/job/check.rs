// SPDX-License-Identifier: MPL-2.0
//! What a scene will be and take, before anything is made: sizes, frames, memory, time, disk; and advice.

use std::path::{Path, PathBuf};

use gst_video::VideoInfo;
use serde_json::Value as Json;
use tch::{Device, Kind};

use super::Line;
use super::line::CONTAINER;
use super::probe::{seconds_between, seconds_per_pixel, sound};
use super::report::{Estimate, Level, Report, Value, counted, gigabytes, shown, time};
use crate::config::{Origin, Preset, Scene, Section};
use crate::engine::device::{DeviceChoice, kind_name};
use crate::engine::esrgan;
use crate::engine::image::Frame;
use crate::engine::svd::{Estimate as ClipEstimate, ModelInfo, ModelType, Params, Planner, Source, Stage};
use crate::engine::{Error, memory};
use crate::svd::plan::Plan;
use crate::svd::settings::Settings as VideoSettings;
use crate::svdsrc::Extent;
use crate::{frameratetune, realesrganscale, svd, svdsrc};

/// Bits per pixel of the default encoder: 0.24 for the two scenes of `pipelines/scenes.yaml`. Other clips differ much.
const BITS_PER_PIXEL: f64 = 0.24;
/// The most noise on the keyframe that svd-nano was trained with: see its README.
const NANO_NOISE: f64 = 0.1;
/// Seconds for a scene from which on it is said what would be quicker.
const LONG: f64 = 3600.0;

/// Checks a scene whose file will be in `folder`. Reads no weights but small networks'.
pub fn check(scene: &Scene, folder: &Path) -> Report {
    let mut report =
        Report { id: scene.id.clone(), values: values(scene), pipeline: None, estimate: None, advice: vec![] };
    match Line::of(scene) {
        Ok(line) => {
            let text = line.to(&folder.join(format!("{}.{}", scene.id, line.container)));
            if let Err(err) = gst::parse::launch_full(&text, None, gst::ParseFlags::FATAL_ERRORS) {
                report.add(Level::Error, "output.encoder", err.to_string());
            }
            report.pipeline = Some(text);
        }
        Err(lack) => report.add(Level::Error, "keyframe", lack),
    }
    if let Some(Err(err)) = scene.keyframe.as_ref().map(|path| Frame::open(path)) {
        report.add(Level::Error, "keyframe", err.to_string());
    }
    preset(scene, &mut report);
    video(scene, &mut report);
    audio(scene, &mut report);
    report.advice.sort_by_key(|advice| std::cmp::Reverse(advice.level));
    report
}

/// What was set, and where.
fn values(scene: &Scene) -> Vec<Value> {
    let value = |((section, key), setting): (&(Section, String), &crate::config::Setting)| {
        let (path, position) = setting.position();
        let from = match setting.origin {
            Origin::Preset(preset) => format!("preset {}", preset.name()),
            Origin::File => "file".into(),
            Origin::Scene => "scene".into(),
            Origin::Outside => "command line".into(),
        };
        let is_written = matches!(setting.origin, Origin::File | Origin::Scene);
        let at = position.filter(|_| is_written).map(|(line, column)| format!("{}:{line}:{column}", path.display()));
        Value { key: format!("{}.{key}", section.name()), value: setting.printed(*section, key), from, at }
    };
    let files = [("keyframe", &scene.keyframe), ("audio", &scene.audio)].into_iter().filter_map(|(key, path)| {
        let value = path.as_ref()?.to_string_lossy().into();
        Some(Value { key: key.into(), value, from: "scene".into(), at: None })
    });
    files.chain(scene.settings.iter().map(value)).collect()
}

/// Tells of a recommended plan of which nothing is left.
fn preset(scene: &Scene, report: &mut Report) {
    let is_left = |origin| matches!(origin, Origin::Preset(preset) if preset == scene.preset);
    if scene.preset != Preset::None && !scene.settings.values().any(|setting| is_left(setting.origin)) {
        let name = scene.preset.name();
        let text = format!(
            "{name}: nothing is left of it, as other values go before each of its own: take these out of the file, or \
             use --preset {name}, which goes before the file"
        );
        report.add(Level::Note, "preset", text);
    }
}

/// Tells of a sound that is none, or is longer or shorter than the picture.
fn audio(scene: &Scene, report: &mut Report) {
    let Some(path) = &scene.audio else { return };
    let sound = match sound(path) {
        Ok(sound) => sound,
        Err(reason) => return report.add(Level::Error, "audio", reason),
    };
    let (Some(sound), Some(estimate)) = (sound, &report.estimate) else { return };
    let (picture, frame) = (estimate.output_frames as f64 / estimate.output_fps, 1.0 / estimate.output_fps);
    let lengths = format!("{sound:.2} s of sound, and {picture:.2} s of picture");
    if sound > picture + frame {
        let text = format!("{lengths}: the file is as long as the sound, which goes on after the last frame; cut it");
        report.add(Level::Warning, "audio", text);
    } else if sound < picture - frame {
        report.add(Level::Warning, "audio", format!("{lengths}: the end is silent"));
    }
}

fn video(scene: &Scene, report: &mut Report) {
    let layer = scene.layer(Section::Video);
    let settings = match VideoSettings::default().with_config(layer, &svdsrc::properties()) {
        Ok(settings) => settings,
        Err(err) => return report.add(Level::Error, "video", err.to_string()),
    };
    let source = model(&settings, report);
    let info = source.as_ref().map_or_else(|| published(&settings), |source| source.info.clone());
    let device = device(&settings, report);
    let kind = kind(&settings, source.as_ref(), device, report);
    let planned = settings.plan(&info.recommended).and_then(|plan| Ok((params(&plan)?, plan.framerate())));
    let (params, fps) = match planned {
        Ok(planned) => planned,
        Err(err) => return report.add(Level::Error, "video", err.to_string()),
    };
    recommended_values(report, &params);
    advise(scene, report, &params, &info, &settings);
    let Some((frames, clips, in_clip)) = extent(&settings, &params, fps, report) else { return };
    let params = Params { num_frames: in_clip, ..params };
    let trained = info.model_type.map_or(info.recommended.num_frames, ModelType::num_frames);
    if in_clip > trained {
        let text = format!(
            "{in_clip} frames in a clip are more than the {trained} that the model was trained with: the picture gets worse. \
             duration makes longer videos, of several clips"
        );
        report.add(Level::Warning, "video.num_frames", text);
    }
    let clip = clip(scene, &info, &params, device, kind, report);
    let place = if let Device::Cuda(index) = device { DeviceChoice::Cuda(index) } else { DeviceChoice::Cpu };
    let (output_size, upscale_seconds) = postprocess(scene, report, &params, device, frames);
    let (output_fps, output_frames, tune_seconds) = framerate(scene, report, fps, frames, output_size, device);
    let is_default = scene.get(Section::Output, "encoder").is_none();
    let bits = output_frames as f64 * (output_size[0] * output_size[1]) as f64 * BITS_PER_PIXEL;
    let estimate = Estimate {
        frames,
        clips,
        size: [params.width, params.height],
        output_size,
        output_frames,
        output_fps: f64::from(output_fps.numer()) / f64::from(output_fps.denom()),
        device: format!("{place} in {}", kind_name(kind)),
        memory: clip.bytes(),
        generate_seconds: clip.seconds() * clips as f64,
        upscale_seconds,
        tune_seconds,
        disk: is_default.then_some((bits / 8.0) as u64),
    };
    if estimate.seconds() > LONG {
        let taken = time(estimate.seconds());
        let text = if estimate.generate_seconds > 0.5 * estimate.seconds() {
            format!(
                "it takes {taken}: fewer steps than {} are the first thing to lower, the size the next",
                params.steps()
            )
        } else {
            format!("it takes {taken}, most of it for upscaling and frames between: a smaller network is quicker")
        };
        report.add(Level::Note, "video.num_inference_steps", text);
    }
    report.estimate = Some(estimate);
}

/// The model, if there is one.
fn model(settings: &VideoSettings, report: &mut Report) -> Option<Source> {
    let source = svd::session::model(settings)
        .and_then(|(path, _)| Source::open(&path, settings.model_type()).map_err(|err| err.to_string()));
    source.map_err(|reason| report.add(Level::Error, "video.model_path", reason)).ok()
}

/// What Stability AI's model would say of itself: where there is none, what a scene takes is of interest all the same.
fn published(settings: &VideoSettings) -> ModelInfo {
    let mut info = ModelInfo { model_type: settings.model_type(), ..ModelInfo::published() };
    if let Some(model_type) = info.model_type {
        info.recommended.num_frames = model_type.num_frames();
    }
    info
}

/// The device that is asked for, or the CPU.
fn device(settings: &VideoSettings, report: &mut Report) -> Device {
    let device = settings.device().parse::<DeviceChoice>().and_then(DeviceChoice::resolve);
    device.unwrap_or_else(|err| {
        report.add(Level::Error, "video.device", err.to_string());
        Device::Cpu
    })
}

/// The precision that is asked for, whether or not the model can be computed in it.
fn kind(settings: &VideoSettings, source: Option<&Source>, device: Device, report: &mut Report) -> Kind {
    let precision = settings.precision();
    let kind = source.map_or_else(|| Ok(precision.kind(device)), |source| source.kind(precision, device));
    kind.unwrap_or_else(|err| {
        report.add(Level::Error, "video.dtype", err.to_string());
        precision.kind(device)
    })
}

/// How many frames are made, in how many clips, of how many frames.
fn extent(
    settings: &VideoSettings,
    params: &Params,
    fps: gst::Fraction,
    report: &mut Report,
) -> Option<(u64, u64, i64)> {
    let layout = match Extent::of(settings, 1).and_then(|extent| extent.layout(params.num_frames, fps)) {
        Ok(layout) => layout,
        Err(err) => {
            report.add(Level::Error, "video", err.to_string());
            return None;
        }
    };
    let (Some(frames), Some(clips)) = (layout.total, layout.clips()) else {
        report.add(Level::Error, "video.num_clips", "clips without an end can't be written: use 1 or more");
        return None;
    };
    if clips > 1 && settings.value("duration").is_some() {
        let seconds = frames as f64 * f64::from(fps.denom()) / f64::from(fps.numer());
        let text = format!(
            "{seconds:.1} s at {} frames a second are {frames} frames, more than the {} of a clip: {clips} clips of {} are \
             made, each going on from the last frame of the one before",
            shown(fps),
            params.num_frames,
            layout.num_frames
        );
        report.add(Level::Note, "video.num_frames", text);
    }
    Some((frames, clips, layout.num_frames))
}

/// What a clip takes.
fn clip(
    scene: &Scene,
    info: &ModelInfo,
    params: &Params,
    device: Device,
    kind: Kind,
    report: &mut Report,
) -> ClipEstimate {
    let (width, height) = (params.width as usize, params.height as usize);
    let keyframe = scene.keyframe.as_ref().and_then(|path| Frame::open(path).ok());
    let shown = keyframe.and_then(|frame| frame.with_aspect_of(width, height, params.keyframe_fit).ok());
    let size = shown.map_or([params.width, params.height], |frame| [frame.width() as i64, frame.height() as i64]);
    let planner = Planner::new(info, params, device, kind, size);
    let (budget, limit) = match (params.max_memory, memory::available(device)) {
        (0, 0) => (u64::MAX, String::new()),
        (0, free) => (free / 10 * 9, format!("what is free ({})", gigabytes(free / 10 * 9))),
        (most, _) => (most, format!("max_memory ({})", gigabytes(most))),
    };
    let way = planner.plan(Stage::Encode, budget).unwrap_or_else(|| {
        // Properties' names are keys here.
        let refusal = planner.refusal(budget, limit).to_string();
        let mut text = refusal.replace("num-frames", "num_frames").replace("decode-mode", "decode_mode");
        if text.ends_with("would fit") {
            text += ". Lower the resolution first; decode_chunk_size alone does not help: chunks are as small as memory \
                     needs, and the clip is the same";
        }
        report.add(Level::Error, "video.max_memory", text);
        planner.least().0
    });
    planner.estimate(&way, params.steps())
}

/// The parameters of a clip, where downstream takes whatever comes.
fn params(plan: &Plan) -> Result<Params, Error> {
    let mut caps = plan.caps();
    plan.choose(&mut caps);
    let info = VideoInfo::from_caps(&caps).map_err(|_| Error::param("video", "", "its size is not possible"))?;
    let params = plan.params(&info, 0);
    params.validate()?;
    Ok(params)
}

/// Adds what the model recommends where nothing is set.
fn recommended_values(report: &mut Report, params: &Params) {
    for (key, value) in svd::settings::to_object(params) {
        let key = format!("video.{key}");
        if !value.is_null() && !report.values.iter().any(|value| value.key == key) {
            report.values.push(Value { key, value, from: "model or default".into(), at: None });
        }
    }
}

/// What the users of this model have learnt, where it is true.
fn advise(scene: &Scene, report: &mut Report, params: &Params, info: &ModelInfo, settings: &VideoSettings) {
    let Params { width, height, .. } = *params;
    let bucket = params.motion_bucket_id;
    if !(1.0..=255.0).contains(&bucket) {
        let text = format!("{bucket} is outside of 1 to 255, which the model was trained with");
        report.add(Level::Warning, "video.motion_bucket_id", text);
    }
    let is_xt = matches!(info.model_type, Some(ModelType::SvdXt | ModelType::SvdXt11));
    let is_nano = || {
        let path =
            svd::session::model(settings).and_then(|(path, _)| path.canonicalize().map_err(|err| err.to_string()));
        path.is_ok_and(|path| path.ends_with(svd::session::DEFAULT_MODEL))
    };
    if params.noise_aug_strength > NANO_NOISE && is_nano() {
        let text =
            format!("{} is above {NANO_NOISE}, the most that svd-nano was trained with", params.noise_aug_strength);
        report.add(Level::Warning, "video.noise_aug_strength", text);
    }
    if info.unet.block_out_channels != ModelInfo::published().unet.block_out_channels {
        // Another model than Stability AI's, which has recommendations of its own.
        return;
    }
    if width % 64 != 0 || height % 64 != 0 {
        let side = if height % 64 != 0 { height } else { width };
        let text = format!("{width}x{height} is fine: {side} is no multiple of 64, but multiples of 8 are enough");
        report.add(Level::Note, "video.height", text);
    }
    if is_xt && params.noise_aug_strength > 0.0005 && scene.get(Section::Video, "noise_aug_strength").is_some() {
        let text = format!(
            "{} is above 0.0005, from which on clips of svd-xt leave the keyframe's faces and details",
            params.noise_aug_strength
        );
        report.add(Level::Warning, "video.noise_aug_strength", text);
    }
    if bucket > 127.0 && bucket <= 255.0 {
        let text = format!("{bucket} is much motion: people and straight lines distort. People hold still at 2");
        report.add(Level::Note, "video.motion_bucket_id", text);
    }
    let steps = params.steps();
    let is_aligned = settings.text("schedule") == Some("ays") || !params.sigmas.is_empty();
    if !is_aligned && steps < 50 {
        let text = format!("{steps} steps: from 50 to 70 the clip is steadier, at a time that grows with them");
        report.add(Level::Note, "video.num_inference_steps", text);
    } else if !is_aligned && steps > 70 {
        let text = format!("{steps} steps: above 70 nothing is gained but time is lost");
        report.add(Level::Note, "video.num_inference_steps", text);
    }
    if params.max_guidance_scale > 3.0 {
        let Params { min_guidance_scale: min, max_guidance_scale: max, .. } = *params;
        let text = format!(
            "guidance goes from {min} at the first frame to {max} at the last; the model's makers take 3: more burns \
             colours and freezes motion"
        );
        report.add(Level::Note, "video.guidance_scale", text);
    }
    if let Some(chunk) = scene.get(Section::Video, "decode_chunk_size").and_then(Json::as_i64)
        && chunk > 0
        && settings.text("decode-mode") != Some("reference")
    {
        let text = format!(
            "{chunk}: a larger chunk does not make the clip smoother here, it is the same with any; left out, it is as large as fits"
        );
        report.add(Level::Note, "video.decode_chunk_size", text);
    }
}

/// The size that comes out, and the seconds that it takes.
fn postprocess(
    scene: &Scene,
    report: &mut Report,
    params: &Params,
    device: Device,
    frames: u64,
) -> ([i64; 2], Option<f64>) {
    let own = [params.width, params.height];
    let layer = scene.layer(Section::Postprocess);
    if layer.is_empty() {
        return (own, None);
    }
    let settings = realesrganscale::settings::Settings::of(&layer);
    let number = |key| layer.get(key).and_then(Json::as_i64);
    let target = [number("target-width"), number("target-height")];
    let found = settings.model_file().map_err(|message| message.to_string());
    let file = found.and_then(|file| {
        let architecture = esrgan::inspect(&file).map_err(|err| err.to_string())?;
        Ok((file, architecture.scale()))
    });
    let (scale, seconds) = match file {
        Ok((file, scale)) => (scale, seconds_per_pixel(file, device)),
        Err(reason) => {
            report.add(Level::Error, "postprocess.model_path", reason);
            (number("model-scale").unwrap_or(4), None)
        }
    };
    if let Some(said) = number("model-scale").filter(|said| *said != scale) {
        let text = format!("{said} is not the model's scale, which is {scale}");
        report.add(Level::Warning, "postprocess.model_scale", text);
    }
    let factor = settings.params.factor(scale);
    let made = own.map(|side| esrgan::scaled(side, factor));
    let seconds = seconds.map(|seconds| seconds * (own[0] * own[1]) as f64 * frames as f64);
    if scale > 1 && factor <= 1.0 {
        let text = format!(
            "{factor} leaves {}x{} as it is: outscale is the size of the output over that of the input, and not what is to be \
             done after the model's x{scale}",
            own[0], own[1]
        );
        report.add(Level::Warning, "postprocess.outscale", text);
    }
    let wanted = match target {
        [None, None] => return (made, seconds),
        [width, height] => {
            let beside = |side: i64, own: i64, other: i64| (side * other / own).max(1);
            let width = width.unwrap_or_else(|| beside(height.unwrap_or(own[1]), own[1], own[0]));
            [width, height.unwrap_or_else(|| beside(width, own[0], own[1]))]
        }
    };
    let needed = (wanted[0] as f64 / own[0] as f64).max(wanted[1] as f64 / own[1] as f64);
    let is_set = layer.contains_key("outscale");
    if factor + 1e-9 < needed && (is_set || (scale as f64) < needed) {
        let text = format!(
            "{}x{} to {}x{} takes x{needed:.3}, and the model gives x{factor}: the rest is only resized",
            own[0], own[1], wanted[0], wanted[1]
        );
        report.add(Level::Warning, "postprocess.outscale", text);
    } else if is_set && (factor - needed).abs() > 1e-9 {
        let text = format!(
            "{}x{} to {}x{} takes x{needed:.3}; x{factor} is enough, and the target size goes before it",
            own[0], own[1], wanted[0], wanted[1]
        );
        report.add(Level::Note, "postprocess.outscale", text);
    }
    (wanted, seconds)
}

/// The rate that comes out, the frames, and the seconds that those between take.
fn framerate(
    scene: &Scene,
    report: &mut Report,
    fps: gst::Fraction,
    frames: u64,
    size: [i64; 2],
    device: Device,
) -> (gst::Fraction, u64, Option<f64>) {
    use frameratetune::settings::Mode;
    let layer = scene.layer(Section::Framerate);
    if layer.is_empty() {
        return (fps, frames, None);
    }
    let settings = frameratetune::settings::Settings::of(&layer);
    if scene.audio.is_some() && (settings.mode == Mode::Retime || settings.speed != gst::Fraction::new(1, 1)) {
        let text = "the picture changes its speed, and the sound does not: it goes in as it is";
        report.add(Level::Warning, "audio", text);
    }
    let output = settings.rate().unwrap_or(fps);
    let number = |rate: gst::Fraction| f64::from(rate.numer()) / f64::from(rate.denom());
    if settings.mode == Mode::Retime {
        if number(output) > number(fps) {
            let (before, after) = (frames as f64 / number(fps), frames as f64 / number(output));
            let text = format!(
                "the same {} at {} a second last {after:.2} s instead of {before:.2}",
                counted(frames),
                shown(output)
            );
            report.add(Level::Note, "framerate.mode", text);
        }
        return (output, frames, None);
    }
    let seconds = frames as f64 / number(fps) / number(settings.speed);
    let made = (seconds * number(output)).ceil() as u64;
    let needs_model = matches!(settings.mode, Mode::Interpolate | Mode::Auto) && made > frames;
    if !needs_model {
        return (output, made, None);
    }
    match settings.model_file() {
        Ok(path) => {
            let between = made.saturating_sub(frames) as f64;
            let taken = seconds_between(&path, device).map(|seconds| seconds * (size[0] * size[1]) as f64 * between);
            (output, made, taken)
        }
        Err(message) => {
            let level = if settings.mode == Mode::Interpolate { Level::Error } else { Level::Warning };
            report.add(level, "framerate.model_path", message.to_string());
            (output, made, None)
        }
    }
}

/// The folder that the job's files go to: what the file says, else `out` beside it.
pub fn folder_of(scene: &Scene, config: &Path) -> PathBuf {
    let said = scene.get(Section::Output, "folder").and_then(Json::as_str).map(PathBuf::from);
    said.unwrap_or_else(|| config.parent().unwrap_or(Path::new("")).join("out"))
}

/// The name of a scene's file.
pub fn file_name(scene: &Scene) -> String {
    let container = scene.get(Section::Output, "container").and_then(Json::as_str).unwrap_or(CONTAINER);
    format!("{}.{container}", scene.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Wanted};

    /// What is said of a scene of SVD-XT with these sections.
    fn advice(sections: &str) -> Vec<(Level, String)> {
        crate::job::register();
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/keyframe.jpg");
        let text = format!("{sections}\nscenes: [{{id: a, keyframe: {}}}]\n", picture.display());
        let config = Config::parse(Path::new("/job/config.yaml"), &text, &Wanted::default()).unwrap();
        let report = check(&config.scenes()[0], Path::new("/job/out"));
        report.advice.into_iter().map(|advice| (advice.level, format!("{}: {}", advice.key, advice.text))).collect()
    }

    #[test]
    fn the_advice_is_true() {
        // As much memory on every machine.
        const XT: &str =
            "model_type: svd-xt, device: cpu, num_frames: 24, fps: 12, num_inference_steps: 55, max_memory: 64GB";
        let upscaler = "model_path: realesrgan/realesr-animevideov3.safetensors";
        for (sections, level, part) in [
            (
                "width: 1280, height: 720}",
                Level::Note,
                "1280x720 is fine: 720 is no multiple of 64, but multiples of 8",
            ),
            ("noise_aug_strength: 0.001}", Level::Warning, "0.001 is above 0.0005"),
            ("motion_bucket_id: 300}", Level::Warning, "300 is outside of 1 to 255"),
            ("motion_bucket_id: 200}", Level::Note, "200 is much motion"),
            ("num_inference_steps: 25}", Level::Note, "25 steps: from 50 to 70"),
            ("num_inference_steps: 90}", Level::Note, "90 steps: above 70"),
            ("guidance_scale: 6}", Level::Note, "guidance goes from 1 at the first frame to 6 at the last"),
            ("decode_chunk_size: 12}", Level::Note, "12: a larger chunk does not make the clip smoother here"),
            (
                "duration: 3}",
                Level::Note,
                "3.0 s at 12 frames a second are 36 frames, more than the 24 of a clip: 2 clips of",
            ),
            ("max_memory: 9.5GB}", Level::Error, "num_frames=23 would fit. Lower the resolution first"),
            (
                "max_memory: 3GB}",
                Level::Error,
                "max_memory (3.0 GB) is too little for 1024x576 with 24 frames: it needs 9.61 GB at least (96",
            ),
            (
                "num_frames: 48}",
                Level::Warning,
                "48 frames in a clip are more than the 25 that the model was trained with",
            ),
            (
                "noise_aug_strength: 0.5, model_type: svd, model_path: svd-nano, num_inference_steps: 8}",
                Level::Warning,
                "0.5 is above 0.1, the most that svd-nano",
            ),
            (
                "dtype: bf16, model_type: svd, model_path: svd-nano}",
                Level::Error,
                "video.dtype: dtype=bf16 is not possible: use fp32, fp16 or auto: ",
            ),
            ("num_clips: 0}", Level::Error, "clips without an end"),
            (
                "width: 1024}\npostprocess: {UP, model_scale: 2}",
                Level::Warning,
                "2 is not the model's scale, which is 4",
            ),
            ("width: 1024}\npostprocess: {UP, outscale: 1}", Level::Warning, "1 leaves 1024x576 as it is"),
            (
                "width: 1024}\npostprocess: {UP, outscale: 1.5, target_width: 1920, target_height: 1080}",
                Level::Warning,
                "1024x576 to 1920x1080 takes x1.875, and the model gives x1.5",
            ),
            (
                "width: 1280, height: 720}\npostprocess: {UP, outscale: 2, target_width: 1920}",
                Level::Note,
                "1280x720 to 1920x1080 takes x1.500; x2 is enough",
            ),
            (
                "}\nframerate: {mode: retime, fps: 16}",
                Level::Note,
                "24 frames at 16 a second last 1.50 s instead of 2.00",
            ),
            (
                "}\npostprocess: {model_path: nowhere.pth}",
                Level::Error,
                "nowhere.pth: No such file or directory (os error 2). To get it",
            ),
        ] {
            // What comes later goes before.
            let video = sections.split('}').next().unwrap_or_default();
            let is_other = |part: &&str| !video.contains(part.split(':').next().unwrap_or_default());
            let common: Vec<_> = XT.split(", ").filter(is_other).collect();
            let sections = format!("video: {{{}, {sections}", common.join(", ")).replace("UP", upscaler);
            let said = advice(&sections);
            assert!(said.iter().any(|(of, text)| *of == level && text.contains(part)), "{sections}\n{said:#?}");
        }
        let said = advice(&format!("video: {{{XT}, width: 1024, height: 576, motion_bucket_id: 2}}"));
        assert!(said.iter().all(|(level, text)| *level < Level::Warning || text.contains("is not there")), "{said:#?}");
    }

    #[test]
    fn a_plan_of_which_nothing_is_left_is_told() {
        let all = "num_inference_steps: 8, width: 64, height: 64, motion_bucket_id: 3, noise_aug_strength: 0";
        let is_told = |sections: &str| {
            let said = advice(sections);
            said.iter()
                .any(|(level, text)| *level == Level::Note && text.starts_with("preset: speed: nothing is left of it"))
        };
        assert!(is_told(&format!("preset: speed\nvideo: {{{all}, fps: 7, decode_chunk_size: 4}}")));
        assert!(!is_told(&format!("preset: speed\nvideo: {{{all}, fps: 7}}")));
        assert!(!is_told(&format!("video: {{{all}, fps: 7}}")));
    }
}
