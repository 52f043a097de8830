// SPDX-License-Identifier: MPL-2.0
//! The engine's pixels against GStreamer's converter.
//!
//! The reference has GStreamer do everything but the matrix: its general path unpacks and brings chroma to full
//! resolution, the matrix here is exact, and its general path subsamples and packs. GStreamer's own matrices have 8 bits
//! and cut off; `cargo test --release --test pixels -- --ignored --nocapture` shows how far they are from exact ones.

use gst_video::{
    VideoAlignment, VideoChromaMode, VideoChromaSite, VideoColorMatrix, VideoColorPrimaries, VideoColorRange,
    VideoColorimetry, VideoConverter, VideoConverterConfig, VideoDitherMethod, VideoFormat, VideoFormatInfo,
    VideoFrame, VideoInfo, VideoTransferFunction,
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
#[derive(Debug, Clone, Copy)]
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
    target.get_mut().unwrap().memset(.., 0).unwrap();
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
    let ends = ends(from);
    let pixel = |pixel: &[u32]| {
        // GStreamer fills up 16 bits by repeating the upper bits of a number.
        let level = |i: usize| (f64::from(pixel[i + 1]) * max / unpacked_max - ends[i].0) / ends[i].1;
        let alpha = if from.has_alpha() { f64::from(pixel[0]) / unpacked_max } else { 1.0 };
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
    if to.format() == VideoFormat::Nv61 {
        // GStreamer exchanges the two chroma numbers of the last pixel of an odd row, as NV16 has them.
        let twin = self::info(VideoFormat::Nv16, (to.width(), to.height()), style);
        let mut bytes = exact_write(pixels, &twin, style);
        bytes[twin.offset()[1]..].chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        return bytes;
    }
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
    let has = |i: usize| match i % 4 {
        0 => info.has_alpha(),
        1 => true,
        _ => !info.is_gray(),
    };
    let pairs = ours.numbers.iter().zip(&theirs.numbers).enumerate().filter(|(i, _)| has(*i));
    pairs.map(|(_, (a, b))| (a >> down).abs_diff(b >> down)).max().unwrap()
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
        if depth == 8 {
            f64::from(noise.next()) / 255.0
        } else {
            f64::from(u16::from_ne_bytes([noise.next(), noise.next()])) / 65535.0
        }
    };
    (0..size.0 * size.1).map(|_| [0; 4].map(|_| number())).collect()
}

/// Smooth colours away from the ends.
fn smooth(size: (u32, u32)) -> Vec<[f64; 4]> {
    let at = |i: u32| {
        let (x, y) = (f64::from(i % size.0) / f64::from(size.0), f64::from(i / size.0) / f64::from(size.1));
        [0.42 + 0.05 * x, 0.45 + 0.03 * y, 0.52 - 0.04 * x * y, 1.0]
    };
    (0..size.0 * size.1).map(at).collect()
}

fn expect_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

const SIZES: [(u32, u32); 6] = [(1, 1), (2, 2), (3, 1), (4, 3), (7, 5), (16, 6)];

#[test]
fn what_is_read_is_what_gstreamer_unpacks() {
    gst::init().unwrap();
    let mut failures = Vec::new();
    let mut source = Noise(1);
    for &format in SCALE_FORMATS {
        let depth = VideoFormatInfo::from_format(format).depth()[0];
        let max = f64::from((1u32 << depth) - 1);
        // Numbers of 10 and 12 bits are filled up to 16 bits there, chroma is rounded twice, and multiplied by about two.
        let limit = match depth {
            8 => 0.001,
            16 => 0.02,
            _ => 0.02 + 4.0 * max / 65535.0,
        };
        for style in styles(format) {
            for size in SIZES {
                let info = info(format, size, style);
                // Bits that a format leaves unused are not noise.
                let bytes = exact_write(&noise(&mut source, size, depth), &info, style);
                let seen = engine_read(&bytes, &info).to_kind(Kind::Double);
                let wanted = tensor(&exact_rgb(&bytes, &info, style), size, info.has_alpha());
                assert_eq!(seen.size(), wanted.size());
                let far = ((seen - wanted).abs().max() * max).double_value(&[]);
                if far > limit {
                    failures.push(format!("{format:?} {size:?} {style:?}: {far} levels"));
                }
            }
        }
    }
    expect_none(&failures);
}

#[test]
fn what_is_written_is_what_gstreamer_packs() {
    gst::init().unwrap();
    let mut failures = Vec::new();
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
                if far > 1 {
                    failures.push(format!("{format:?} {size:?} {style:?}: {far} levels"));
                }
            }
        }
    }
    expect_none(&failures);
}

#[test]
fn every_pair_of_formats_agrees() {
    gst::init().unwrap();
    let size = (7, 5);
    let mut failures = Vec::new();
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
                // Numbers of 10 and 12 bits are filled up and rounded to 16 bits there before they are multiplied.
                // The difference is a sixteenth of a level of 10 bits.
                let limit = if (10..=12).contains(&depth) && to.format_info().depth()[0] == 16 { 4 } else { 1 };
                if far > limit {
                    failures.push(format!("{:?} to {:?}: {far} levels", from.format(), to.format()));
                }
            }
        }
    }
    expect_none(&failures);
}

#[test]
fn the_list_has_every_format_that_can_be_described() {
    gst::init().unwrap();
    let left_out =
        ["VYUY", "Y210", "Y212_LE", "Y212_BE", "Y412_LE", "Y412_BE", "v216", "AV12", "Y41B", "YUV9", "YVU9", "IYU1"];
    for format in VideoFormat::iter_raw() {
        let description = VideoFormatInfo::from_format(format);
        let depths = &description.depth()[..description.n_components() as usize];
        let is_plain = !description.is_complex() && !description.is_tiled() && !description.has_palette();
        let is_even = depths.iter().all(|&depth| depth == depths[0] && depth >= 8);
        let is_apart = description.pixel_stride()[0] as u32 != 4 || depths.iter().sum::<u32>() != 30;
        let wanted = is_plain && is_even && is_apart && !left_out.contains(&description.name().as_str());
        assert_eq!(SCALE_FORMATS.contains(&format), wanted, "{format:?}");
    }
}

#[test]
fn a_layout_is_what_caps_say() {
    gst::init().unwrap();
    for &format in SCALE_FORMATS {
        let info = info(format, (21, 13), USUAL);
        let layout = layout(&info).unwrap_or_else(|| panic!("{format:?}"));
        assert_eq!((layout.width(), layout.height(), layout.size()), (21, 13, info.size()), "{format:?}");
        assert_eq!((layout.has_alpha(), layout.is_gray()), (info.has_alpha(), info.is_gray()), "{format:?}");
        assert_eq!(layout.depth(), info.format_info().depth()[0], "{format:?}");
    }
    assert_eq!(layout(&info(VideoFormat::V210, (21, 13), USUAL)), None);
    let unknown = Style { matrix: VideoColorMatrix::Unknown, ..USUAL };
    assert_eq!(layout(&info(VideoFormat::Nv12, (21, 13), unknown)), None);
    assert!(layout(&info(VideoFormat::Gray8, (21, 13), unknown)).is_some_and(|layout| layout.is_gray()));
}

#[test]
fn the_unused_byte_is_set() {
    gst::init().unwrap();
    for (format, byte) in [(VideoFormat::Rgbx, 3), (VideoFormat::Xbgr, 0)] {
        let bytes = engine_write(&Tensor::zeros([3, 2, 2], (Kind::Float, Device::Cpu)), &info(format, (2, 2), USUAL));
        for pixel in bytes.chunks(4) {
            assert!((0..4).all(|i| (pixel[i] == 255) == (i == byte)), "{format:?}: {pixel:?}");
        }
    }
}

#[test]
fn regions_fit_together() {
    gst::init().unwrap();
    let (size, mut source) = ((23, 17), Noise(4));
    for &format in SCALE_FORMATS {
        for style in styles(format).into_iter().filter(|style| style.matrix == VideoColorMatrix::Bt601) {
            let mut info = info(format, size, style);
            let tight = exact_write(&noise(&mut source, size, info.format_info().depth()[0]), &info, style);
            let whole = engine_read(&tight, &info);
            // Rows that are longer than the pixels, as decoders have them.
            info.align(&mut VideoAlignment::new(3, 5, 4, 8, &[15; 4])).unwrap();
            assert!(info.size() > tight.len());
            let (layout, plain) = (layout(&info).unwrap(), engine_write(&whole, &self::info(format, size, style)));
            let mut canvas = Canvas::new(&layout, Device::Cpu);
            let cuts = [0..5, 5..6, 6..17];
            for rows in cuts.iter().rev() {
                for columns in [0..9, 9..12, 12..23] {
                    let part = whole.narrow(1, rows.start, rows.end - rows.start);
                    canvas.put(&part.narrow(2, columns.start, columns.end - columns.start), rows.start, columns.start);
                }
            }
            let padded = canvas.finish();
            let again = read(&padded, &layout, 0..17, 0..23).squeeze_dim(0);
            assert_eq!(again, engine_read(&plain, &self::info(format, size, style)), "{format:?}");
            for rows in &cuts {
                for columns in [0..9, 9..12, 12..23] {
                    let seen = read(&padded, &layout, rows.clone(), columns.clone()).squeeze_dim(0);
                    let part = again.narrow(1, rows.start, rows.end - rows.start);
                    assert_eq!(seen, part.narrow(2, columns.start, columns.end - columns.start), "{format:?}");
                }
            }
        }
    }
}

#[test]
fn grey_stays_grey() {
    gst::init().unwrap();
    let ramp: Vec<f64> = (0..256).map(|i| f64::from(i) / 255.0).collect();
    let pixels: Vec<_> = ramp.iter().chain(&ramp).map(|&grey| [grey, grey, grey, 1.0]).collect();
    for &format in SCALE_FORMATS {
        for style in styles(format) {
            let info = info(format, (256, 2), style);
            let seen = engine_read(&engine_write(&tensor(&pixels, (256, 2), true), &info), &info).narrow(0, 0, 3);
            let spread = f64::try_from((seen.amax([0], false) - seen.amin([0], false)).max()).unwrap();
            assert!(spread < 1e-6, "{format:?} {:?}: channels differ by {spread}", info.colorimetry());
            let ramp = Tensor::from_slice(&ramp).to_kind(Kind::Float);
            let far = f64::try_from((seen - ramp).abs().max()).unwrap();
            assert!(far <= 0.51 / 219.0, "{format:?} {:?}: off by {far}", info.colorimetry());
        }
    }
}

/// Pairs that GStreamer needs no matrix for, shortcuts included. It copies chroma of the same resolution, while the engine
/// filters it up and down, which keeps smooth colours only; and it fills up numbers that get more bits. Hence levels are
/// those of the coarser format, of 10 bits at most.
#[test]
fn smooth_pictures_agree_with_videoconvert_as_it_is() {
    gst::init().unwrap();
    let size = (48, 32);
    let mut failures = Vec::new();
    for &from in SCALE_FORMATS {
        let from = info(from, size, USUAL);
        let bytes = exact_write(&smooth(size), &from, USUAL);
        let seen = engine_read(&bytes, &from);
        for &to in SCALE_FORMATS {
            let to = info(to, size, USUAL);
            if from.is_rgb() != to.is_rgb() {
                continue;
            }
            let mut theirs = convert_with(&bytes, &from, &to, VideoConverterConfig::new());
            if to.format() == VideoFormat::A420 && !from.has_alpha() {
                // Its shortcut writes an alpha of 128.
                let plane = to.offset()[3];
                theirs[plane..].fill(255);
            }
            let far = difference(&engine_write(&seen, &to), &theirs, &to, USUAL);
            let depth = |info: &VideoInfo| info.format_info().depth()[0];
            let limit = 1 << depth(&to).saturating_sub(depth(&from).min(10));
            if far > limit {
                failures.push(format!("{:?} to {:?}: {far} levels", from.format(), to.format()));
            }
        }
    }
    expect_none(&failures);
}

/// Prints how far the engine is from `videoconvert` as it is, which is how coarse its matrices and shortcuts are.
#[test]
#[ignore = "prints a table"]
fn how_far_videoconvert_is() {
    gst::init().unwrap();
    let (size, mut source) = ((64, 48), Noise(5));
    for &format in SCALE_FORMATS {
        let depth = VideoFormatInfo::from_format(format).depth()[0];
        let unit = f64::from((1u32 << depth) - 1);
        for range in RANGES {
            let mut columns = Vec::new();
            for matrix in [VideoColorMatrix::Bt601, VideoColorMatrix::Bt709, VideoColorMatrix::Bt2020] {
                let style = Style { matrix, range, ..USUAL };
                let deep = depth > 8;
                let full = Style { range: VideoColorRange::Range0_255, ..style };
                let rgb = info(if deep { VideoFormat::Argb64 } else { VideoFormat::Argb }, size, full);
                let info = info(format, size, style);
                let pixels = noise(&mut source, size, depth);
                let bytes = exact_write(&pixels, &info, style);
                let seen = engine_read(&bytes, &info).narrow(0, 0, 3).to_kind(Kind::Double);
                for config in [general(), VideoConverterConfig::new()] {
                    let theirs = convert_with(&bytes, &info, &rgb, config);
                    let theirs = engine_read(&theirs, &rgb).narrow(0, 0, 3).to_kind(Kind::Double);
                    columns.push(format!("{:6.1}", ((&seen - theirs).abs().max() * unit).double_value(&[])));
                }
                let source = exact_write(&pixels, &rgb, full);
                let ours = engine_write(&engine_read(&source, &rgb), &info);
                for config in [general(), VideoConverterConfig::new()] {
                    let theirs = convert_with(&source, &rgb, &info, config);
                    columns.push(format!("{:4}", difference(&ours, &theirs, &info, style)));
                }
            }
            println!(
                "{format:?} {range:?} read general/default, write general/default by matrix: {}",
                columns.join(" ")
            );
        }
    }
}
