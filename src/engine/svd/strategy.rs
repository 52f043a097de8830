// SPDX-License-Identifier: MPL-2.0
//! How a clip is computed so that it fits into memory. What it looks like does not depend on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use tch::{Device, Kind};

use super::cost::{self, Prediction};
use super::sketch::Cost;
use super::source::ModelInfo;
use super::speed::Speed;
use super::vae::{Decoding, Keep};
use super::{DecodeMode, Params};
use crate::engine::{Error, Result};

/// A way of computing a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Strategy {
    /// How frames are decoded.
    pub decoding: Decoding,
    /// Whether the UNet's halves of guidance run one after the other.
    pub sequential_guidance: bool,
    /// Whether each network is on the device only while it runs.
    pub taking_turns: bool,
    /// In how many pieces the UNet's feed-forward blocks take the tokens.
    pub feed_forward_pieces: i64,
}

impl fmt::Display for Strategy {
    /// "decoding 4 frames at a time, guidance in sequence".
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.decoding.chunk {
            1 => f.write_str("decoding 1 frame at a time")?,
            chunk => write!(f, "decoding {chunk} frames at a time")?,
        }
        if self.decoding.two_pass {
            f.write_str(" in two passes")?;
        }
        if self.decoding.keep == Keep::Host {
            f.write_str(", activations on the host")?;
        }
        if self.sequential_guidance {
            f.write_str(", guidance in sequence")?;
        }
        if self.taking_turns {
            f.write_str(", networks taking turns")?;
        }
        if self.feed_forward_pieces > 1 {
            write!(f, ", feed-forward in {} pieces", self.feed_forward_pieces)?;
        }
        Ok(())
    }
}

/// A part of the making of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The keyframe's embedding and its latents.
    Encode,
    /// The steps.
    Denoise,
    /// From latents to pictures.
    Decode,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::Encode, Self::Denoise, Self::Decode];
}

/// What a stage takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Need {
    /// Bytes on the device: the networks that are there, and the largest moment of what is computed.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

/// What a clip takes, before its first step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// For embedding and encoding the keyframe.
    pub encode: Need,
    /// For all denoising steps.
    pub denoise: Need,
    /// For decoding the frames.
    pub decode: Need,
}

impl Estimate {
    /// Bytes on the device, at most.
    pub fn bytes(&self) -> u64 {
        self.encode.bytes.max(self.denoise.bytes).max(self.decode.bytes)
    }

    /// Seconds for the whole clip.
    pub fn seconds(&self) -> f64 {
        self.encode.seconds + self.denoise.seconds + self.decode.seconds
    }
}

/// The precision of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds([Kind; 3]);

impl Kinds {
    /// The same for all.
    pub fn all(kind: Kind) -> Self {
        Self([kind; 3])
    }

    /// A stage's.
    pub fn of(&self, stage: Stage) -> Kind {
        self.0[stage as usize]
    }

    /// Sets a stage's.
    pub fn set(&mut self, stage: Stage, kind: Kind) {
        self.0[stage as usize] = kind;
    }
}

/// A clip whose strategy is to be found.
pub struct Planner<'a> {
    info: &'a ModelInfo,
    params: Params,
    device: Device,
    /// The precision of each stage.
    pub kinds: Kinds,
    /// The keyframe's width and height, as it is shown.
    keyframe: [i64; 2],
    walked: RefCell<HashMap<Walked, Cost>>,
}

/// What a cost depends on, within one clip.
#[derive(PartialEq, Eq, Hash)]
enum Walked {
    Clip(Kind),
    Encoder(Kind),
    Unet(Kind, i64, i64),
    Decoder(Kind, Decoding),
}

impl<'a> Planner<'a> {
    /// A planner for a clip on `device` in `kind`, from a keyframe of this width and height.
    pub fn new(info: &'a ModelInfo, params: &Params, device: Device, kind: Kind, keyframe: [i64; 2]) -> Self {
        let kinds = Kinds::all(kind);
        Self { info, params: params.clone(), device, kinds, keyframe, walked: RefCell::default() }
    }

    /// All strategies, the best first. Each is given up for the next in this order: frames that are decoded at once,
    /// guidance in one batch, all networks on the device, feed-forward blocks in one piece.
    pub fn ways(&self) -> impl Iterator<Item = Strategy> {
        const PIECES: [i64; 5] = [1, 2, 4, 8, 16];
        let guidance: &[bool] = if self.params.is_guided() { &[false, true] } else { &[false] };
        let decoding = self.ways_to_decode();
        PIECES.into_iter().flat_map(move |feed_forward_pieces| {
            let decoding = decoding.clone();
            [false, true].into_iter().flat_map(move |taking_turns| {
                let decoding = decoding.clone();
                guidance.iter().flat_map(move |&sequential_guidance| {
                    decoding.clone().into_iter().map(move |decoding| Strategy {
                        decoding,
                        sequential_guidance,
                        taking_turns,
                        feed_forward_pieces,
                    })
                })
            })
        })
    }

    /// Chunks, the largest first; then the same in two passes; then with the clip on the host between layers.
    fn ways_to_decode(&self) -> Vec<Decoding> {
        let Params { width, height, num_frames: frames, decode_chunk_size: bound, decode_mode: mode, .. } = self.params;
        // On the CPU more than half a million pixels at once are slower; a GPU wants some more to do.
        let usual = if self.device.is_cuda() { 4 } else { ((1 << 19) / (width * height)).max(1) };
        let most = match (bound, mode) {
            (0, DecodeMode::Exact) => usual,
            (0, DecodeMode::Reference) => frames,
            (bound, _) => bound,
        };
        let whole = Decoding { chunk: most.min(frames), mode, keep: Keep::Device, two_pass: false };
        if mode == DecodeMode::Reference {
            // There the chunks decide what the clip looks like.
            return vec![whole];
        }
        let chunks = std::iter::successors(Some(whole.chunk), |&chunk| (chunk > 1).then_some((chunk + 1) / 2));
        let mut sorts = vec![whole, Decoding { two_pass: true, ..whole }];
        if self.device.is_cuda() {
            sorts.push(Decoding { two_pass: true, keep: Keep::Host, ..whole });
        }
        sorts.into_iter().flat_map(|sort| chunks.clone().map(move |chunk| Decoding { chunk, ..sort })).collect()
    }

    /// The best strategy that stays within `budget` from `stage` on.
    pub fn plan(&self, stage: Stage, budget: u64) -> Option<Strategy> {
        let stages = Stage::ALL.into_iter().filter(|later| *later >= stage);
        self.ways().find(|way| stages.clone().all(|stage| self.bytes(stage, way) <= budget))
    }

    /// The strategy that takes the least, and what it takes.
    pub fn least(&self) -> (Strategy, u64) {
        let ways = self.ways().map(|way| (way, self.most(&way)));
        ways.min_by_key(|(_, bytes)| *bytes).expect("there is a way")
    }

    /// Bytes on the device, at most.
    fn most(&self, way: &Strategy) -> u64 {
        Stage::ALL.into_iter().map(|stage| self.bytes(stage, way)).max().unwrap_or(0)
    }

    /// Bytes on the device in a stage.
    pub fn bytes(&self, stage: Stage, way: &Strategy) -> u64 {
        let [clip, encoder, unet, decoder] = self.costs(way);
        let vae = encoder.weights + decoder.weights;
        if way.taking_turns {
            return match stage {
                Stage::Encode => (clip.weights + clip.peak).max(vae + encoder.peak),
                Stage::Denoise => unet.weights + unet.peak,
                Stage::Decode => vae + decoder.peak,
            };
        }
        clip.weights
            + unet.weights
            + vae
            + match stage {
                Stage::Encode => clip.peak.max(encoder.peak),
                Stage::Denoise => unet.peak,
                Stage::Decode => decoder.peak,
            }
    }

    /// What each stage takes. `steps` is how often the UNet runs.
    pub fn estimate(&self, way: &Strategy, steps: i64) -> Estimate {
        let [clip, encoder, unet, decoder] = self.costs(way);
        let halves = if way.sequential_guidance { 2 } else { 1 };
        let speed = |stage| Speed::of(self.device, self.kinds.of(stage));
        let upcast = self.info.vae.force_upcast;
        let encoding = if upcast { Speed::of(self.device, Kind::Float) } else { speed(Stage::Encode) };
        let need = |stage, seconds| Need { bytes: self.bytes(stage, way), seconds };
        Estimate {
            encode: need(Stage::Encode, speed(Stage::Encode).seconds(&clip.work) + encoding.seconds(&encoder.work)),
            denoise: need(Stage::Denoise, speed(Stage::Denoise).seconds(&unet.work) * (halves * steps) as f64),
            decode: need(Stage::Decode, speed(Stage::Decode).seconds(&decoder.work)),
        }
    }

    /// CLIP, the VAE's encoder, one run of the UNet, the VAE's decoder.
    fn costs(&self, way: &Strategy) -> [Cost; 4] {
        let Params { width, height, num_frames: frames, .. } = self.params;
        let (info, device) = (self.info, self.device);
        let [h, w] = [height, width].map(|side| side / info.vae.factor());
        let walk = |key: Walked, walk: &dyn Fn() -> Cost| *self.walked.borrow_mut().entry(key).or_insert_with(walk);
        let [encode, denoise, decode] = self.kinds.0;
        let clips = if self.params.is_guided() && !way.sequential_guidance { 2 } else { 1 };
        let at = Prediction { clips, frames, h, w, pieces: way.feed_forward_pieces };
        [
            walk(Walked::Clip(encode), &|| cost::clip(&info.clip, device, encode, self.keyframe[0], self.keyframe[1])),
            walk(Walked::Encoder(encode), &|| cost::vae_encoder(&info.vae, device, encode, width, height)),
            walk(Walked::Unet(denoise, at.clips, at.pieces), &|| cost::unet(&info.unet, device, denoise, at)),
            walk(Walked::Decoder(decode, way.decoding), &|| {
                cost::vae_decoder(&info.vae, device, decode, [frames, h, w], &way.decoding)
            }),
        ]
    }

    /// The error that says what would fit into `budget`; `limit` says in words what sets it.
    pub fn refusal(&self, budget: u64, limit: String) -> Error {
        let Params { width, height, num_frames, .. } = self.params;
        let (_, needed) = self.least();
        Error::Budget {
            limit,
            what: format!("{width}x{height} with {num_frames} frames"),
            needed,
            remedy: self
                .remedy(budget)
                .unwrap_or_else(|| "its networks alone are too large, whatever the size and the length".into()),
        }
    }

    /// What to lower to stay within `budget`.
    fn remedy(&self, budget: u64) -> Option<String> {
        let fits = |change: &dyn Fn(&mut Params)| {
            let mut params = self.params.clone();
            change(&mut params);
            let other = Planner { params, walked: RefCell::default(), ..*self };
            other.least().1 <= budget
        };
        let Params { width, height, num_frames, decode_mode, .. } = self.params;
        if decode_mode == DecodeMode::Reference && fits(&|params| params.decode_mode = DecodeMode::Exact) {
            return Some("decode-mode=exact would fit".into());
        }
        let unit = if width > 128 { 64 } else { 8 };
        let size = |units: i64| [units * unit, (height * units * unit / width + 4).max(8) / 8 * 8];
        let size_fits = |units: i64| {
            let [width, height] = size(units);
            fits(&|params| (params.width, params.height) = (width, height))
        };
        let smaller = largest((width - 1) / unit, size_fits).map(|units| {
            let [width, height] = size(units);
            format!("width={width} height={height}")
        });
        let shorter = largest(num_frames - 1, |frames| fits(&|params| params.num_frames = frames))
            .map(|frames| format!("num-frames={frames}"));
        let both: Vec<_> = smaller.into_iter().chain(shorter).collect();
        (!both.is_empty()).then(|| format!("{} would fit", both.join(", or ")))
    }
}

/// The largest number from 1 to `most` for which `holds`, which holds for all below one for which it does.
fn largest(most: i64, holds: impl Fn(i64) -> bool) -> Option<i64> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high + 1) / 2;
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (low > 0).then_some(low)
}

/// The strategy as the planner would give it for whatever memory, if `budget` allows it.
///
/// # Errors
/// [`Error::Budget`] if there is none.
pub fn plan(planner: &Planner, budget: u64, limit: impl FnOnce() -> String) -> Result<Strategy> {
    planner.plan(Stage::Encode, budget).ok_or_else(|| planner.refusal(budget, limit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planner(info: &ModelInfo, params: Params) -> Planner<'_> {
        let keyframe = [params.width, params.height];
        Planner::new(info, &params, Device::Cuda(0), Kind::Half, keyframe)
    }

    #[test]
    fn weights_are_counted_as_the_checkpoints_have_them() {
        let info = ModelInfo::published();
        let planner = planner(&info, Params { num_frames: 25, ..Params::default() });
        let [clip, encoder, unet, decoder] = planner.costs(&planner.ways().next().unwrap());
        let count = |file: &str| -> u64 {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/svd").join(file);
            let full: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let numbers = |entry: &serde_json::Value| {
                entry[1].as_array().unwrap().iter().map(|side| side.as_u64().unwrap()).product::<u64>()
            };
            full["keys"].as_array().unwrap().iter().map(numbers).sum()
        };
        assert_eq!(unet.weights, 2 * count("full_unet.json"));
        assert_eq!(clip.weights, 2 * count("full_clip.json"));
        // The encoder is in float32.
        assert_eq!(encoder.weights / 4 + decoder.weights / 2, count("full_vae.json"));
    }

    #[test]
    fn a_smaller_budget_gives_up_more() {
        let info = ModelInfo::published();
        let planner = planner(&info, Params { num_frames: 25, ..Params::default() });
        let mut last = u64::MAX;
        let order: Vec<_> = planner.ways().collect();
        let mut rung = 0;
        for gigabytes in [24, 16, 12, 8, 6] {
            let budget = gigabytes * 1_000_000_000;
            let way = planner.plan(Stage::Encode, budget).unwrap_or_else(|| panic!("{gigabytes} GB"));
            let bytes = planner.most(&way);
            assert!(bytes <= budget && bytes <= last, "{gigabytes} GB: {bytes}");
            let at = order.iter().position(|other| *other == way).unwrap();
            assert!(at >= rung, "{gigabytes} GB: {way}");
            (last, rung) = (bytes, at);
        }
        assert_eq!(planner.plan(Stage::Encode, 24_000_000_000), Some(order[0]));
    }

    #[test]
    fn what_the_user_sets_is_a_bound() {
        let info = ModelInfo::published();
        let chunks = |change: fn(&mut Params)| {
            let mut params = Params { num_frames: 25, ..Params::default() };
            change(&mut params);
            let planner = planner(&info, params);
            let ways: Vec<_> = planner.ways().map(|way| way.decoding.chunk).collect();
            (*ways.iter().min().unwrap(), *ways.iter().max().unwrap())
        };
        assert_eq!(chunks(|params| params.decode_chunk_size = 11), (1, 11));
        assert_eq!(chunks(|params| params.decode_chunk_size = 1000), (1, 25));
        // The reference's chunks are a part of what the clip looks like.
        assert_eq!(
            chunks(|params| (params.decode_chunk_size, params.decode_mode) = (8, DecodeMode::Reference)),
            (8, 8)
        );
        assert_eq!(chunks(|params| params.decode_mode = DecodeMode::Reference), (25, 25));
    }

    #[test]
    fn a_refusal_names_values_that_fit() {
        let info = ModelInfo::published();
        let params = Params { width: 1280, height: 720, num_frames: 25, ..Params::default() };
        let budget = 4_800_000_000;
        let refusal = |params: &Params, budget| {
            plan(&planner(&info, params.clone()), budget, || format!("max-memory={budget}")).unwrap_err().to_string()
        };
        let message = refusal(&params, budget);
        assert!(message.starts_with("max-memory=4800000000 is too little for 1280x720 with 25 frames: it needs "));
        let value = |name: &str| -> i64 {
            let (_, rest) = message.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{name} in {message}"));
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let fits = |params: Params| planner(&info, params).plan(Stage::Encode, budget).is_some();
        let (width, height) = (value("width"), value("height"));
        assert!(
            width < 1280 && width % 64 == 0 && height % 8 == 0 && (width * 9 - height * 16).abs() <= 64,
            "{message}"
        );
        assert!(fits(Params { width, height, ..params.clone() }), "{message}");
        assert!(fits(Params { num_frames: value("num-frames"), ..params.clone() }), "{message}");
        // In the order in which they should be tried.
        assert!(message.find("width=") < message.find("num-frames="), "{message}");

        let message = refusal(&params, 1_000_000_000);
        assert!(message.contains("networks alone are too large"), "{message}");
        let reference = Params { decode_mode: DecodeMode::Reference, ..params };
        let message = refusal(&reference, 12_000_000_000);
        assert!(message.contains("decode-mode=exact would fit"), "{message}");
    }
}
