// SPDX-License-Identifier: MPL-2.0
//! The engine's pixels against GStreamer's converter.
//!
//! The reference has GStreamer do everything but the matrix: its general path unpacks and brings chroma to full
//! resolution, the matrix here is exact, and its general path subsamples and packs. GStreamer's own matrices have 8 bits
//! and cut off; `cargo test --release --test pixels -- --ignored --nocapture` shows how far they are from exact ones.

use gst_video::{
    VideoAlignment, VideoChromaMode, VideoChromaSite, VideoColorMatrix, VideoColorPrimaries, VideoColorRange,
    VideoColorimetry, VideoConverter, VideoConverterConfig, VideoDitherMethod, VideoFormat, VideoFormatInfo, VideoFrame,
    VideoInfo, VideoTransferFunction,
};
use gsttorchvideo::engine::pixels::{Canvas, read};
use gsttorchvideo::video::{SCALE_FORMATS, layout};
use tch::{Device, Kind, Tensor};

const MATRICES: [(VideoColorMatrix, f64, f64); 5] = [
    (VideoColorMatrix::Bt601, 0.299, 0.114),
    (VideoColorMatrix::Bt709, 0.2126, 0.0722),
    (VideoColorMatrix::Bt2020, 0.2627, 0.0593),
    (VideoColorMatrix::Smpte240m, 0.212, 0.087),
    (VideoColorMatrix::Fcc, 0.30, 0.11),
];
const RANGES: [VideoColorRange; 2] = [VideoColorRange::Range16_235, VideoColorRange::Range0_255];

/// What a picture's numbers mean.
#[derive(Clone, Copy)]
struct Style {
    matrix: VideoColorMatrix,
    range: VideoColorRange,
    site: VideoChromaSite,
}

const USUAL: Style =
    Style { matrix: VideoColorMatrix::Bt709, range: VideoColorRange::Range16_235, site: VideoChromaSite::H_COSITED };

/// The styles that make a difference to a format.
fn styles(format: VideoFormat) -> Vec<Style> {
    let description = VideoFormatInfo::from_format(format);
    let (h, v) = (VideoChromaSite::H_COSITED, VideoChromaSite::V_COSITED);
    let subsampled = description.w_sub().get(1).is_some_and(|&shift| shift > 0);
    let sites = if subsampled { vec![VideoChromaSite::NONE, h, v, h | v] } else { vec![VideoChromaSite::NONE] };
    let matrices = if description.is_rgb() { &MATRICES[..1] } else { &MATRICES[..] };
    let mut styles = Vec::new();
    for range in RANGES {
        for (matrix, _, _) in matrices {
            styles.extend(sites.iter().map(|&site| Style { matrix: *matrix, range, site }));
        }
    }
    styles
}

fn info(format: VideoFormat, size: (u32, u32), style: Style) -> VideoInfo {
    let description = VideoFormatInfo::from_format(format);
    let matrix = if description.is_rgb() { VideoColorMatrix::Rgb } else { style.matrix };
    let (transfer, primaries) = (VideoTransferFunction::Bt709, VideoColorPrimaries::Bt709);
    let colorimetry = VideoColorimetry::new(style.range, matrix, transfer, primaries);
    let builder = VideoInfo::builder(format, size.0, size.1).colorimetry(&colorimetry);
    let builder = if description.is_yuv() { builder.chroma_site(style.site) } else { builder };
    builder.build().unwrap()
}

fn convert_with(bytes: &[u8], from: &VideoInfo, to: &VideoInfo, config: VideoConverterConfig) -> Vec<u8> {
    let converter = VideoConverter::new(from, to, Some(config)).unwrap();
    let source = VideoFrame::from_buffer_readable(gst::Buffer::from_slice(bytes.to_vec()), from).unwrap();
    let mut target = gst::Buffer::with_size(to.size()).unwrap();
    target.get_mut().unwrap().memset(.., 0);
    let mut target = VideoFrame::from_buffer_writable(target, to).unwrap();
    converter.frame(&source, &mut target);
    target.into_buffer().map_readable().unwrap().to_vec()
}

/// The general path, which has neither shortcuts nor noise.
fn general() -> VideoConverterConfig {
    let mut config = VideoConverterConfig::new();
    config.set_dither_method(VideoDitherMethod::None);
    // No shortcut is taken for another quantization than 1; without dithering it does nothing else.
    config.set_dither_quantization(2);
    config
}

/// A deterministic source of bytes.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as u8
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// A picture unpacked: the format that GStreamer unpacks to, with four numbers of 8 or 16 bits for a pixel, alpha first.
struct Unpacked {
    info: VideoInfo,
    numbers: Vec<u32>,
}

fn numbers(bytes: &[u8], depth: u32) -> Vec<u32> {
    if depth == 8 {
        return bytes.iter().map(|&byte| byte.into()).collect();
    }
    bytes.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]).into()).collect()
}

fn unpacked_info(info: &VideoInfo, style: Style) -> VideoInfo {
    let deep = info.format_info().depth()[0] > 8;
    let format = match (info.is_rgb(), deep) {
        (true, false) => VideoFormat::Argb,
        (true, true) => VideoFormat::Argb64,
        (false, false) => VideoFormat::Ayuv,
        (false, true) => VideoFormat::Ayuv64,
    };
    self::info(format, (info.width(), info.height()), style)
}

/// Unpacks with chroma at full resolution: filtered, or each number as often as it stands for.
fn unpack(bytes: &[u8], from: &VideoInfo, style: Style, filtered: bool) -> Unpacked {
    let info = unpacked_info(from, style);
    let mut config = general();
    if !filtered {
        config.set_chroma_mode(VideoChromaMode::None);
    }
    let bytes = convert_with(bytes, from, &info, config);
    Unpacked { numbers: numbers(&bytes, info.format_info().depth()[0]), info }
}

fn shares(info: &VideoInfo) -> (f64, f64) {
    let (_, kr, kb) = MATRICES.into_iter().find(|(matrix, ..)| *matrix == info.colorimetry().matrix()).unwrap();
    (kr, kb)
}

/// Black, or no colour, and how far white is, for each component. By GStreamer's tables.
fn ends(info: &VideoInfo) -> [(f64, f64); 3] {
    let (offsets, scales) = info.format_info().range_offsets(info.colorimetry().range());
    [0, 1, 2].map(|i| (offsets[i].into(), scales[i].into()))
}

/// A picture as exact RGB in [0, 1] and alpha, pixel by pixel.
fn exact_rgb(bytes: &[u8], from: &VideoInfo, style: Style) -> Vec<[f64; 4]> {
    let unpacked = unpack(bytes, from, style, true);
    let depth = from.format_info().depth()[0];
    let (max, unpacked_max) = (f64::from((1u32 << depth) - 1), if depth == 8 { 255.0 } else { 65535.0 });
    let mut ends = ends(from);
    if from.is_gray() {
        let middle = f64::from(1u32 << (depth - 1));
        ends = [ends[0], (middle, 1.0), (middle, 1.0)];
    }
    let pixel = |pixel: &[u32]| {
        // GStreamer fills up 16 bits by repeating the upper bits of a number.
        let level = |i: usize| (f64::from(pixel[i + 1]) * max / unpacked_max - ends[i].0) / ends[i].1;
        let alpha = f64::from(pixel[0]) / unpacked_max;
        let [r, g, b] = if from.is_rgb() {
            [level(0), level(1), level(2)]
        } else if from.is_gray() {
            [level(0); 3]
        } else {
            let ((kr, kb), y, u, v) = (shares(from), level(0), level(1), level(2));
            let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
            [r, (y - kr * r - kb * b) / (1.0 - kr - kb), b]
        };
        [r.clamp(0.0, 1.0), g.clamp(0.0, 1.0), b.clamp(0.0, 1.0), alpha]
    };
    unpacked.numbers.chunks(4).map(pixel).collect()
}

/// A picture in another format from exact RGB: rounded where GStreamer rounds first, then packed by it.
fn exact_write(pixels: &[[f64; 4]], to: &VideoInfo, style: Style) -> Vec<u8> {
    let info = unpacked_info(to, style);
    let deep = info.format_info().depth()[0] == 16;
    let (max, ends) = (if deep { 65535.0 } else { 255.0 }, ends(&info));
    let mut bytes = Vec::new();
    for &[r, g, b, a] in pixels {
        let colours = if to.is_rgb() {
            [r, g, b]
        } else {
            let (kr, kb) = shares(to);
            let y = kr * r + (1.0 - kr - kb) * g + kb * b;
            [y, (b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr))]
        };
        let level = |i: usize| (colours[i] * ends[i].1 + ends[i].0).round().clamp(0.0, max);
        for number in [(a * max).round(), level(0), level(1), level(2)] {
            if deep { bytes.extend((number as u16).to_ne_bytes()) } else { bytes.push(number as u8) }
        }
    }
    convert_with(&bytes, &info, to, general())
}

/// The largest difference between two pictures of a format, in its levels, over the components it has.
fn difference(ours: &[u8], theirs: &[u8], info: &VideoInfo, style: Style) -> u32 {
    let (ours, theirs) = (unpack(ours, info, style, false), unpack(theirs, info, style, false));
    let down = ours.info.format_info().depth()[0] - info.format_info().depth()[0];
    let pairs = ours.numbers.iter().zip(&theirs.numbers);
    pairs.map(|(a, b)| (a >> down).abs_diff(b >> down)).max().unwrap()
}

/// The engine's answer: pixels as (c, h, w).
fn engine_read(bytes: &[u8], info: &VideoInfo) -> Tensor {
    let layout = layout(info).unwrap_or_else(|| panic!("{:?}", info.format()));
    read(&Tensor::from_slice(bytes), &layout, 0..layout.height(), 0..layout.width()).squeeze_dim(0)
}

fn engine_write(pixels: &Tensor, info: &VideoInfo) -> Vec<u8> {
    let mut canvas = Canvas::new(&layout(info).unwrap(), Device::Cpu);
    canvas.put(pixels, 0, 0);
    Vec::try_from(canvas.finish()).unwrap()
}

/// Pixels as the engine takes them: (c, h, w) float32.
fn tensor(pixels: &[[f64; 4]], size: (u32, u32), alpha: bool) -> Tensor {
    let flat: Vec<f32> = pixels.iter().flatten().map(|&value| value as f32).collect();
    let pixels = Tensor::from_slice(&flat).view([size.1.into(), size.0.into(), 4]).permute([2, 0, 1]);
    pixels.narrow(0, 0, if alpha { 4 } else { 3 }).contiguous()
}

/// Noise over the whole range, at the depth of a format.
fn noise(noise: &mut Noise, size: (u32, u32), depth: u32) -> Vec<[f64; 4]> {
    let mut number = || {
        if depth == 8 { f64::from(noise.next()) / 255.0 } else { f64::from(u16::from_ne_bytes([noise.next(), noise.next()])) / 65535.0 }
    };
    (0..size.0 * size.1).map(|_| [0; 4].map(|_| number())).collect()
}

/// Smooth colours away from the ends.
fn smooth(size: (u32, u32)) -> Vec<[f64; 4]> {
    let at = |i: u32| {
        let (x, y) = (f64::from(i % size.0) / f64::from(size.0), f64::from(i / size.0) / f64::from(size.1));
        [0.3 + 0.3 * x, 0.4 + 0.2 * y, 0.6 - 0.2 * x * y, 1.0]
    };
    (0..size.0 * size.1).map(at).collect()
}

const SIZES: [(u32, u32); 6] = [(1, 1), (2, 2), (3, 1), (4, 3), (7, 5), (16, 6)];

#[test]
fn what_is_read_is_what_gstreamer_unpacks() {
    gst::init().unwrap();
    let mut source = Noise(1);
    for &format in SCALE_FORMATS {
        let depth = VideoFormatInfo::from_format(format).depth()[0];
        let max = f64::from((1u32 << depth) - 1);
        // Chroma of more than 8 bits is rounded twice to 16 bits there, and multiplied by about two.
        let limit = if depth == 8 { 0.001 } else { 0.02 + 8.0 * max / 65535.0 };
        for style in styles(format) {
            for size in SIZES {
                let info = info(format, size, style);
                // Bits that a format leaves unused are not noise.
                let bytes = exact_write(&noise(&mut source, size, depth), &info, style);
                let seen = engine_read(&bytes, &info).to_kind(Kind::Double);
                let wanted = tensor(&exact_rgb(&bytes, &info, style), size, info.has_alpha());
                assert_eq!(seen.size(), wanted.size());
                let far = ((seen - wanted).abs().max() * max).double_value(&[]);
                assert!(far <= limit, "{format:?} {size:?} {:?} {:?}: {far} levels", info.colorimetry(), style.site);
            }
        }
    }
}

#[test]
fn what_is_written_is_what_gstreamer_packs() {
    gst::init().unwrap();
    let mut source = Noise(2);
    for &format in SCALE_FORMATS {
        let depth = VideoFormatInfo::from_format(format).depth()[0];
        for style in styles(format) {
            for size in SIZES {
                let info = info(format, size, style);
                let pixels = noise(&mut source, size, depth);
                let ours = engine_write(&tensor(&pixels, size, true), &info);
                let theirs = exact_write(&pixels, &info, style);
                let far = difference(&ours, &theirs, &info, style);
                assert!(far <= 1, "{format:?} {size:?} {:?} {:?}: {far} levels", info.colorimetry(), style.site);
            }
        }
    }
}

#[test]
fn every_pair_of_formats_agrees() {
    gst::init().unwrap();
    let size = (7, 5);
    let mut source = Noise(3);
    for &from in SCALE_FORMATS {
        let depth = VideoFormatInfo::from_format(from).depth()[0];
        let from = info(from, size, USUAL);
        for pixels in [noise(&mut source, size, depth), smooth(size)] {
            let bytes = exact_write(&pixels, &from, USUAL);
            let (seen, exact) = (engine_read(&bytes, &from), exact_rgb(&bytes, &from, USUAL));
            for &to in SCALE_FORMATS {
                let to = info(to, size, USUAL);
                let far = difference(&engine_write(&seen, &to), &exact_write(&exact, &to, USUAL), &to, USUAL);
                assert!(far <= 1, "{:?} to {:?}: {far} levels", from.format(), to.format());
            }
        }
    }
}
