// SPDX-License-Identifier: MPL-2.0
//! Where GStreamer's video frames and the engine's meet: pixel formats, row strides, alpha, colours.

use gst_video::{
    VideoChromaSite, VideoColorMatrix, VideoColorRange, VideoFormat, VideoFormatInfo, VideoFrameExt, VideoFrameRef,
    VideoInfo,
};

use crate::engine::image::Frame;
use crate::engine::pixels::{Colour, Component as Place, Layout, Range, Samples, Site, Subsampling};

/// The 8-bit RGB formats that can be read and written.
pub const FORMATS: [VideoFormat; 11] = [
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
    VideoFormat::Argb,
    VideoFormat::Abgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Xrgb,
    VideoFormat::Xbgr,
    VideoFormat::Gbr,
];

/// The formats that [`layout`] can describe: RGB, YUV and grey of 8 to 16 bits in one or two bytes, chroma at full or half
/// resolution. Not packed closer than bytes, not in tiles, no palettes; and without those that GStreamer's own tables
/// describe wrongly (VYUY, Y210, Y212, Y412, v216, AV12).
pub const SCALE_FORMATS: &[VideoFormat] = &[
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
    VideoFormat::Argb,
    VideoFormat::Abgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Xrgb,
    VideoFormat::Xbgr,
    VideoFormat::Gbr,
    VideoFormat::Gbra,
    VideoFormat::Rgbp,
    VideoFormat::Bgrp,
    VideoFormat::I420,
    VideoFormat::Yv12,
    VideoFormat::Nv12,
    VideoFormat::Nv21,
    VideoFormat::A420,
    VideoFormat::Y42b,
    VideoFormat::Nv16,
    VideoFormat::Nv61,
    VideoFormat::Yuy2,
    VideoFormat::Yvyu,
    VideoFormat::Uyvy,
    VideoFormat::Y444,
    VideoFormat::Nv24,
    VideoFormat::Ayuv,
    VideoFormat::Vuya,
    VideoFormat::V308,
    VideoFormat::Iyu2,
    VideoFormat::Gray8,
    VideoFormat::Gray16Le,
    VideoFormat::Gray16Be,
    VideoFormat::I42010le,
    VideoFormat::I42010be,
    VideoFormat::I42012le,
    VideoFormat::I42012be,
    VideoFormat::P01010le,
    VideoFormat::P01010be,
    VideoFormat::P012Le,
    VideoFormat::P012Be,
    VideoFormat::P016Le,
    VideoFormat::P016Be,
    VideoFormat::A42010le,
    VideoFormat::A42010be,
    VideoFormat::I42210le,
    VideoFormat::I42210be,
    VideoFormat::I42212le,
    VideoFormat::I42212be,
    VideoFormat::A42210le,
    VideoFormat::A42210be,
    VideoFormat::Y44410le,
    VideoFormat::Y44410be,
    VideoFormat::Y44412le,
    VideoFormat::Y44412be,
    VideoFormat::Y44416le,
    VideoFormat::Y44416be,
    VideoFormat::A44410le,
    VideoFormat::A44410be,
    VideoFormat::Ayuv64,
    VideoFormat::Gbr10le,
    VideoFormat::Gbr10be,
    VideoFormat::Gbr12le,
    VideoFormat::Gbr12be,
    VideoFormat::Gbra10le,
    VideoFormat::Gbra10be,
    VideoFormat::Gbra12le,
    VideoFormat::Gbra12be,
    VideoFormat::Rgba64Le,
    VideoFormat::Rgba64Be,
    VideoFormat::Bgra64Le,
    VideoFormat::Bgra64Be,
    VideoFormat::Argb64Le,
    VideoFormat::Argb64Be,
    VideoFormat::Argb64,
    VideoFormat::Abgr64Le,
    VideoFormat::Abgr64Be,
];

/// The engine's description of a picture of one of [`SCALE_FORMATS`], with the planes, strides and colours of `info`. Grey
/// without a matrix has that of BT.601.
///
/// None for other formats, for YUV without a matrix, and for rows that are stored upwards.
pub fn layout(info: &VideoInfo) -> Option<Layout> {
    if !SCALE_FORMATS.contains(&info.format()) {
        return None;
    }
    let format = info.format_info();
    let bytes = format.depth()[0].div_ceil(8) as usize;
    let samples = Samples { depth: format.depth()[0], bytes, shift: format.shift()[0], big_endian: !format.is_le() };
    let components = (0..info.n_components() as u8).map(|index| place(info, format, index, bytes));
    let range = match info.colorimetry().range() {
        VideoColorRange::Range16_235 => Range::Limited,
        _ => Range::Full,
    };
    let size = (info.width() as usize, info.height() as usize);
    Layout::new(size, info.size(), samples, components.collect::<Option<_>>()?, colour(info, format)?, range)
}

/// The bytes of a frame of one of [`SCALE_FORMATS`], in the planes and strides of `info`, of the same format and size.
/// What lies between the rows is 0.
///
/// None for a frame whose rows are stored upwards.
pub fn pack(frame: &VideoFrameRef<&gst::BufferRef>, info: &VideoInfo) -> Option<Vec<u8>> {
    if frame.plane_stride().iter().any(|&stride| stride < 0) {
        return None;
    }
    let mut bytes = vec![0; info.size()];
    let format = info.format_info();
    let sample = format.depth()[0].div_ceil(8) as usize;
    for index in 0..info.n_components() as u8 {
        let plane = info.comp_plane(index);
        let others = 0..index;
        if others.clone().any(|other| info.comp_plane(other) == plane) {
            continue;
        }
        // A row ends with the last number of the plane's components.
        let in_plane = (index..info.n_components() as u8).filter(|&other| info.comp_plane(other) == plane);
        let end = |index: u8| {
            let place = place(info, format, index, sample)?;
            let numbers = frame.comp_width(index.into()) as usize;
            Some(place.offset - info.offset()[plane as usize] + place.pixel * (numbers - 1) + sample)
        };
        let length = in_plane.filter_map(end).max().unwrap_or(0);
        let data = frame.plane_data(plane).expect("a mapped frame has its planes");
        let [from, to] = [frame.plane_stride(), info.stride()].map(|strides| strides[plane as usize] as usize);
        let target = &mut bytes[info.offset()[plane as usize]..];
        for row in 0..frame.comp_height(index.into()) as usize {
            target[row * to..][..length].copy_from_slice(&data[row * from..][..length]);
        }
    }
    Some(bytes)
}

fn place(info: &VideoInfo, format: VideoFormatInfo, index: u8, bytes: usize) -> Option<Place> {
    let plane = info.comp_plane(index) as usize;
    // GStreamer's tables count this offset in numbers, not in bytes, where two chroma numbers of two bytes share a plane.
    let in_numbers = bytes == 2 && format.poffset()[index as usize] == 1;
    let offset = info.comp_poffset(index) as usize * if in_numbers { 2 } else { 1 };
    let row = usize::try_from(info.stride()[plane]).ok()?;
    Some(Place { offset: info.offset()[plane] + offset, pixel: usize::try_from(info.comp_pstride(index)).ok()?, row })
}

fn colour(info: &VideoInfo, format: VideoFormatInfo) -> Option<Colour> {
    let shares = |matrix| match matrix {
        VideoColorMatrix::Fcc => Some((0.30, 0.11)),
        VideoColorMatrix::Bt709 => Some((0.2126, 0.0722)),
        VideoColorMatrix::Bt601 => Some((0.2990, 0.1140)),
        VideoColorMatrix::Smpte240m => Some((0.212, 0.087)),
        VideoColorMatrix::Bt2020 => Some((0.2627, 0.0593)),
        _ => None,
    };
    let matrix = info.colorimetry().matrix();
    if info.is_rgb() {
        return Some(Colour::Rgb);
    }
    if info.is_gray() {
        let (kr, kb) = shares(matrix).or(shares(VideoColorMatrix::Bt601))?;
        return Some(Colour::Gray { kr, kb });
    }
    let (kr, kb) = shares(matrix)?;
    let halved = |shifts: &[u32]| shifts[1] == 1;
    let subsampling = Subsampling { horizontal: halved(format.w_sub()), vertical: halved(format.h_sub()) };
    let cosited = |flag| info.chroma_site().contains(flag);
    let site = Site { horizontal: cosited(VideoChromaSite::H_COSITED), vertical: cosited(VideoChromaSite::V_COSITED) };
    Some(Colour::Yuv { kr, kb, subsampling, site })
}

/// Where one colour component of a format lies: plane, first byte, bytes from pixel to pixel, bytes from row to row.
struct Component {
    plane: u32,
    offset: usize,
    pixel: usize,
    row: usize,
}

/// The components R, G, B and, if the format has it, A.
fn components(info: &VideoInfo) -> Vec<Component> {
    (0..info.n_components() as u8)
        .map(|i| Component {
            plane: info.comp_plane(i),
            offset: info.comp_poffset(i) as usize,
            pixel: info.comp_pstride(i) as usize,
            row: info.comp_stride(i) as usize,
        })
        .collect()
}

/// Copies a video frame of one of [`FORMATS`] out: RGB, or RGBA if the format has an alpha channel.
pub fn read(frame: &VideoFrameRef<&gst::BufferRef>) -> Frame {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let components = components(frame.info());
    let channels = components.len();
    let mut data = vec![0; width * height * channels];
    for (channel, component) in components.iter().enumerate() {
        let plane = frame.plane_data(component.plane).expect("a mapped frame has its planes");
        for (y, row) in data.chunks_exact_mut(width * channels).enumerate() {
            let source = &plane[y * component.row + component.offset..];
            for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                pixel[channel] = source[x * component.pixel];
            }
        }
    }
    Frame::new(width, height, channels, data)
}

/// Copies a picture into a video frame of one of [`FORMATS`] and of the same size. What the picture has no value for
/// (alpha, the unused byte of the x formats) becomes 255.
pub fn write(picture: &Frame, frame: &mut VideoFrameRef<&mut gst::BufferRef>) {
    assert_eq!((picture.width(), picture.height()), (frame.width() as usize, frame.height() as usize));
    let (width, channels) = (picture.width(), picture.channels());
    let components = components(frame.info());
    if components.iter().any(|component| component.pixel > channels.min(components.len())) {
        frame.plane_data_mut(0).expect("a mapped frame has its planes").fill(255);
    }
    for (channel, component) in components.iter().enumerate().take(channels) {
        let plane = frame.plane_data_mut(component.plane).expect("a mapped frame has its planes");
        for (y, row) in picture.data().chunks_exact(width * channels).enumerate() {
            let target = &mut plane[y * component.row + component.offset..];
            for (x, pixel) in row.chunks_exact(channels).enumerate() {
                target[x * component.pixel] = pixel[channel];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(format: VideoFormat, stride: Option<i32>) -> VideoInfo {
        let builder = VideoInfo::builder(format, 5, 3);
        // Rows far longer than the pixels need, as a decoder's buffers have them.
        let Some(stride) = stride else { return builder.build().unwrap() };
        let planes = if format == VideoFormat::Gbr { 3 } else { 1 };
        let plane = stride as usize * 3;
        let offsets: Vec<_> = (0..planes).map(|i| i * plane).collect();
        builder.offset(&offsets).stride(&vec![stride; planes]).size(planes * plane).build().unwrap()
    }

    #[test]
    fn every_format_keeps_every_byte() {
        gst::init().unwrap();
        for channels in [3, 4] {
            let picture = Frame::new(5, 3, channels, (0..15 * channels as u8).map(|i| i * 4).collect());
            for format in FORMATS {
                for stride in [None, Some(48)] {
                    let info = info(format, stride);
                    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
                    let buffer = buffer.get_mut().unwrap();
                    write(&picture, &mut VideoFrameRef::from_buffer_ref_writable(buffer, &info).unwrap());
                    let seen = read(&VideoFrameRef::from_buffer_ref_readable(buffer, &info).unwrap());
                    assert_eq!(seen.channels(), if info.has_alpha() { 4 } else { 3 });
                    for (seen, pixel) in seen.data().chunks(seen.channels()).zip(picture.data().chunks(channels)) {
                        let wanted = [pixel[0], pixel[1], pixel[2], if channels == 4 { pixel[3] } else { 255 }];
                        assert_eq!(seen, &wanted[..seen.len()], "{format:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_unused_byte_is_set() {
        gst::init().unwrap();
        let info = info(VideoFormat::Xbgr, None);
        let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
        let buffer = buffer.get_mut().unwrap();
        let picture = Frame::new(5, 3, 3, vec![7; 45]);
        write(&picture, &mut VideoFrameRef::from_buffer_ref_writable(buffer, &info).unwrap());
        assert_eq!(buffer.map_readable().unwrap()[..4], [255, 7, 7, 7]);
    }
}
