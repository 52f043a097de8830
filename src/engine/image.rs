// SPDX-License-Identifier: MPL-2.0
//! Pictures as the engine takes and gives them, and their way to and from tensors.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::resample::resample;
use super::{Error, Result};

/// An 8-bit picture: rows from the top, pixels from the left, RGB or RGBA, full range, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Frame {
    /// A picture of `width` x `height` pixels of 3 (RGB) or 4 (RGBA) bytes.
    ///
    /// # Panics
    /// If `data` is not `width * height * channels` bytes long: that is a fault of the caller.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Self {
        assert!(channels == 3 || channels == 4, "a frame has 3 or 4 channels, not {channels}");
        assert_eq!(data.len(), width * height * channels, "a frame of {width}x{height}x{channels}");
        Self { width, height, channels, data }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes in a pixel: 3 (RGB) or 4 (RGBA).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, without copying them.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The picture as a float32 tensor (1, channels, height, width) in [0, 1] on `device`.
    pub fn to_tensor(&self, device: Device) -> Tensor {
        let (h, w, c) = (self.height as i64, self.width as i64, self.channels as i64);
        let bytes = Tensor::from_slice(&self.data).to_device(device);
        bytes.view([1, h, w, c]).permute([0, 3, 1, 2]).to_kind(Kind::Float).contiguous() / 255.0
    }

    /// Pictures from a tensor (count, 3 or 4, height, width) of values for [0, 1]: clamped, scaled and rounded.
    pub fn from_tensor(pictures: &Tensor) -> Result<Vec<Self>> {
        let (count, channels, height, width) = pictures.size4()?;
        let bytes = (pictures.to_kind(Kind::Float).clamp(0.0, 1.0) * 255.0)
            .round()
            .to_kind(Kind::Uint8)
            .permute([0, 2, 3, 1])
            .contiguous()
            .to_device(Device::Cpu);
        let (width, height, channels) = (width as usize, height as usize, channels as usize);
        (0..count)
            .map(|i| Ok(Self::new(width, height, channels, Vec::<u8>::try_from(bytes.get(i).view(-1))?)))
            .collect()
    }

    /// Reads a PNG, JPEG or WebP file as RGB, turned upright as its EXIF orientation says. Transparency is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be read, [`Error::Picture`] if it is no picture, broken, or larger than 512 MiB
    /// when decoded.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|err| Error::io(path, err))?;
        Self::decode(BufReader::new(file), path)
    }

    /// The same from memory.
    ///
    /// # Errors
    /// As [`Self::open`]; they call the picture by `name`.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::decode(Cursor::new(bytes), Path::new(name))
    }

    fn decode(encoded: impl BufRead + Seek, path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::Picture { path: path.into(), reason };
        let io = |err| Error::io(path, err);
        let mut reader = ImageReader::new(encoded).with_guessed_format().map_err(io)?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(512 << 20);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|err| match err {
            image::ImageError::IoError(err) if err.kind() != std::io::ErrorKind::UnexpectedEof => io(err),
            err => refuse(err.to_string()),
        })?;
        let orientation = decoder.orientation().map_err(|err| refuse(err.to_string()))?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|err| refuse(err.to_string()))?;
        picture.apply_orientation(orientation);
        let rgb = picture.into_rgb8();
        Ok(Self::new(rgb.width() as usize, rgb.height() as usize, 3, rgb.into_raw()))
    }

    /// The part of `width` x `height` pixels whose left top corner is (`left`, `top`); what lies outside the picture
    /// is black.
    fn window(&self, left: isize, top: isize, width: usize, height: usize) -> Self {
        let c = self.channels;
        let mut data = vec![0; width * height * c];
        let first = left.max(0) as usize;
        let last = (left + width as isize).clamp(0, self.width as isize) as usize;
        for (y, row) in data.chunks_exact_mut(width * c).enumerate() {
            let Some(source) = usize::try_from(top + y as isize).ok().filter(|&y| y < self.height) else { continue };
            let at = (first as isize - left) as usize;
            let from = (source * self.width + first) * c;
            row[at * c..(at + last - first) * c].copy_from_slice(&self.data[from..from + (last - first) * c]);
        }
        Self::new(width, height, c, data)
    }

    /// The picture with the shape of `width` x `height`, at its own resolution: cropped about its middle, padded
    /// with black, or as it is (then [`Frame::resize`] stretches it).
    ///
    /// # Errors
    /// [`Error::Param`] if so much black had to be added that the picture grew beyond [`MAX_PADDED`] pixels.
    pub fn with_aspect_of(&self, width: usize, height: usize, fit: Fit) -> Result<Self> {
        // The size, in this picture's pixels, of a window of the wanted shape: for a crop the largest inside, for
        // padding the smallest around.
        let wide = (self.height * width).div_ceil(height).max(1);
        let high = (self.width * height).div_ceil(width).max(1);
        let is_wider = self.width * height > width * self.height;
        let (w, h) = match (fit, is_wider) {
            (Fit::Stretch, _) => return Ok(self.clone()),
            (Fit::Crop, true) | (Fit::Pad, false) => (wide, self.height),
            (Fit::Crop, false) | (Fit::Pad, true) => (self.width, high),
        };
        if (w, h) == (self.width, self.height) {
            return Ok(self.clone());
        }
        if fit == Fit::Pad && w.saturating_mul(h) > MAX_PADDED {
            let what = format!("a keyframe of {}x{} padded to the shape of {width}x{height}", self.width, self.height);
            return Err(Error::param("keyframe_fit", "pad", format!("{what} has {w}x{h} pixels; use crop or stretch")));
        }
        Ok(self.window((self.width as isize - w as isize) / 2, (self.height as isize - h as isize) / 2, w, h))
    }

    /// The picture resized to `width` x `height` as Pillow's Lanczos filter does it; the same picture if it has that
    /// size.
    pub fn resize(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let data = resample(&self.data, self.channels, (self.width, self.height), (width, height));
        Self::new(width, height, self.channels, data)
    }
}

/// The most pixels that a keyframe can be padded to.
pub const MAX_PADDED: usize = 1 << 27;

/// How a keyframe is brought to the clip's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The middle of the picture; what sticks out is cut off.
    #[default]
    Crop,
    /// The whole picture with black bars.
    Pad,
    /// The whole picture, out of proportion.
    Stretch,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: usize, height: usize) -> Frame {
        Frame::new(width, height, 3, (0..width * height * 3).map(|i| (i % 251) as u8).collect())
    }

    #[test]
    fn bytes_survive_the_way_through_a_tensor() {
        let frame = Frame::new(16, 16, 3, (0..=255).chain(0..=255).chain(0..=255).collect());
        assert_eq!(Frame::from_tensor(&frame.to_tensor(Device::Cpu)).unwrap(), [frame]);
    }

    #[test]
    fn values_are_rounded_and_clamped() {
        let values =
            Tensor::from_slice(&[-1.0f32, 0.4999 / 255.0, 0.5001 / 255.0, 2.0, 254.6 / 255.0, 0.5]).view([1, 3, 1, 2]);
        assert_eq!(Frame::from_tensor(&values).unwrap()[0].data(), [0, 1, 255, 0, 255, 128]);
    }

    #[test]
    fn shapes_are_fitted_about_the_middle() {
        let frame = ramp(8, 4);
        let crop = frame.with_aspect_of(40, 40, Fit::Crop).unwrap();
        assert_eq!((crop.width(), crop.height()), (4, 4));
        assert_eq!(crop.data()[..12], frame.data()[6..18]);
        let pad = frame.with_aspect_of(40, 40, Fit::Pad).unwrap();
        assert_eq!((pad.width(), pad.height()), (8, 8));
        assert!(pad.data()[..2 * 24].iter().all(|&byte| byte == 0));
        assert_eq!(pad.data()[2 * 24..6 * 24], *frame.data());
        assert_eq!(frame.with_aspect_of(40, 40, Fit::Stretch).unwrap(), frame);
        let tall = ramp(4, 8).with_aspect_of(16, 8, Fit::Crop).unwrap();
        assert_eq!((tall.width(), tall.height()), (4, 2));
        let err = ramp(9, 1).with_aspect_of(8, 1 << 30, Fit::Pad).unwrap_err().to_string();
        assert!(err.contains("keyframe_fit=pad") && err.contains("9x1"), "{err}");
        let thin = ramp(1, 9).with_aspect_of(1024, 8, Fit::Crop).unwrap();
        assert_eq!((thin.width(), thin.height()), (1, 1));
    }

    #[test]
    fn a_grey_picture_stays_grey_when_resized() {
        let grey = Frame::new(37, 23, 3, vec![119; 37 * 23 * 3]);
        assert!(grey.resize(64, 40).data().iter().all(|&byte| byte == 119));
    }

    /// Writes a picture of 16x8 pixels, dark on the left and light on the right, with Exif data that say only how it is
    /// to be turned.
    fn encode(mut encoder: impl image::ImageEncoder, orientation: u8) {
        let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
        let exif = [b"II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat();
        encoder.set_exif_metadata(exif).unwrap();
        let picture: Vec<u8> = (0..16 * 8).flat_map(|i| [if i % 16 < 8 { 20 } else { 220 }; 3]).collect();
        encoder.write_image(&picture, 16, 8, image::ExtendedColorType::Rgb8).unwrap();
    }

    #[test]
    fn every_format_is_read_and_turned_upright() {
        use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};

        // Orientation 6: the camera lay on its side, and the picture's left belongs on top.
        for (orientation, size, dark, light) in [(1, (16, 8), (0, 7), (15, 0)), (6, (8, 16), (7, 0), (0, 15))] {
            let mut files = [const { Vec::new() }; 3];
            let [png, webp, jpeg] = &mut files;
            encode(PngEncoder::new(png), orientation);
            encode(WebPEncoder::new_lossless(webp), orientation);
            encode(JpegEncoder::new_with_quality(jpeg, 100), orientation);
            for bytes in files {
                // The content says what it is, not the name.
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), bytes).unwrap();
                let frame = Frame::open(file.path()).unwrap();
                assert_eq!((frame.width(), frame.height()), size);
                for ((x, y), value) in [(dark, 20u8), (light, 220)] {
                    let seen = frame.data()[(y * frame.width() + x) * 3];
                    assert!(seen.abs_diff(value) <= 2, "{seen} instead of {value}");
                }
            }
        }
    }
}
