// SPDX-License-Identifier: MPL-2.0
//! Where GStreamer's video frames and the engine's meet: pixel formats, row strides, alpha.

use gst_video::{VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};

use crate::engine::image::Frame;

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
