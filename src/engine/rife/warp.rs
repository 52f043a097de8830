// SPDX-License-Identifier: MPL-2.0
//! Pictures moved along a flow.
//!
//! Upstream: `model/warplayer.py` of Practical-RIFE. Positions are float32 in every precision: in half precision, those
//! of a picture more than 2048 pixels wide would be whole pixels at best.

use tch::{Device, Kind, Tensor};

/// The positions of a picture's pixels, as the sampler of libtorch wants them: from -1, the first pixel's middle, to 1.
pub struct Positions {
    /// (1, 2, height, width): x and y.
    base: Tensor,
    /// (1, 2, 1, 1): what a flow of pixels is divided by.
    divisor: Tensor,
}

impl Positions {
    /// Those of a picture of `height` x `width`, two at least each.
    pub fn new(height: i64, width: i64, device: Device) -> Self {
        let row = |length| Tensor::linspace(-1.0, 1.0, length, (Kind::Float, device));
        let x = row(width).view([1, 1, 1, width]).expand([1, 1, height, width], false);
        let y = row(height).view([1, 1, height, 1]).expand([1, 1, height, width], false);
        let divisor = Tensor::from_slice(&[(width - 1) as f32 / 2.0, (height - 1) as f32 / 2.0]);
        Self { base: Tensor::cat(&[x, y], 1), divisor: divisor.view([1, 2, 1, 1]).to_device(device) }
    }

    /// Height and width.
    pub fn size(&self) -> (i64, i64) {
        let size = self.base.size();
        (size[2], size[3])
    }

    /// Pictures (n, c, h, w), float32, as they are where `flow`, (n, 2, h, w) in pixels, float32, leads: (n, c, h, w).
    pub fn warp(&self, picture: &Tensor, flow: &Tensor) -> Tensor {
        sample(picture, &self.base, &self.divisor, flow)
    }

    /// What [`reduced`] makes of the warped pictures, `scale` being 2 or more and even. Only the pixels that it would
    /// look at are computed.
    pub fn warp_reduced(&self, picture: &Tensor, flow: &Tensor, scale: i64) -> Tensor {
        if scale == 2 {
            return self.warp(picture, flow).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
        }
        let warped = sample(picture, &middles(&self.base, scale), &self.divisor, &middles(flow, scale));
        warped.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
    }
}

fn sample(picture: &Tensor, base: &Tensor, divisor: &Tensor, flow: &Tensor) -> Tensor {
    const BILINEAR: i64 = 0;
    const BORDER: i64 = 1;
    let at = (flow / divisor + base).permute([0, 2, 3, 1]);
    picture.grid_sampler(&at, BILINEAR, BORDER, true)
}

/// The four pixels in the middle of each square of `scale` x `scale`, `scale` being even: (n, c, h, w) ->
/// (n, c, 2 * h / scale, 2 * w / scale).
fn middles(x: &Tensor, scale: i64) -> Tensor {
    let (n, channels, height, width) = x.size4().expect("pictures have four dimensions");
    let (rows, columns) = (height / scale, width / scale);
    let squares = x.view([n, channels, rows, scale, columns, scale]);
    let middles = squares.narrow(3, scale / 2 - 1, 2).narrow(5, scale / 2 - 1, 2);
    middles.reshape([n, channels, 2 * rows, 2 * columns])
}

/// A picture `scale` times smaller: each pixel is the mean of the four in the middle of its square, which is what
/// bilinear interpolation without antialiasing gives for an even scale. `scale` is even and divides both sides, or is
/// 1.
pub fn reduced(x: &Tensor, scale: i64) -> Tensor {
    if scale == 1 {
        return x.shallow_clone();
    }
    middles(x, scale).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
}

/// A picture brought to `height` x `width` by bilinear interpolation.
pub fn resized(x: &Tensor, height: i64, width: i64) -> Tensor {
    if x.size()[2..] == [height, width] {
        return x.shallow_clone();
    }
    x.upsample_bilinear2d([height, width], false, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Device = Device::Cpu;

    fn noise(size: &[i64]) -> Tensor {
        Tensor::rand(size, (Kind::Float, CPU))
    }

    fn most(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_flow_leads_to_where_a_pixel_comes_from() {
        let x = Tensor::arange(12, (Kind::Float, CPU)).view([1, 1, 3, 4]);
        let positions = Positions::new(3, 4, CPU);
        assert_eq!(positions.size(), (3, 4));
        let flow = |x: f32, y: f32| Tensor::from_slice(&[x, y]).view([1, 2, 1, 1]).expand([1, 2, 3, 4], false);
        let warped =
            |x_flow, y_flow| Vec::<f32>::try_from(positions.warp(&x, &flow(x_flow, y_flow)).view(-1).round()).unwrap();
        assert_eq!(warped(0.0, 0.0), Vec::<f32>::try_from(x.view(-1)).unwrap());
        // One to the right, and beyond the border its last pixel.
        assert_eq!(warped(1.0, 0.0), [1., 2., 3., 3., 5., 6., 7., 7., 9., 10., 11., 11.]);
        assert_eq!(warped(0.0, -2.0), [0., 1., 2., 3., 0., 1., 2., 3., 0., 1., 2., 3.]);
        assert!(most(&positions.warp(&x, &flow(0.25, 0.0)).narrow(3, 0, 3), &(x.narrow(3, 0, 3) + 0.25)) < 1e-5);
    }

    #[test]
    fn what_is_reduced_is_interpolated() {
        let x = noise(&[1, 3, 64, 96]);
        for scale in [1, 2, 4, 16, 32] {
            assert!(most(&reduced(&x, scale), &resized(&x, 64 / scale, 96 / scale)) < 1e-6, "{scale}");
        }
        let (positions, flow) = (Positions::new(64, 96, CPU), (noise(&[1, 2, 64, 96]) - 0.5) * 9.0);
        for scale in [2, 4, 16] {
            let whole = reduced(&positions.warp(&x, &flow), scale);
            assert!(most(&positions.warp_reduced(&x, &flow, scale), &whole) < 1e-5, "{scale}");
        }
    }
}
