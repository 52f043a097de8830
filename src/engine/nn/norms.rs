// SPDX-License-Identifier: MPL-2.0
//! Normalisations. Their `eps` differs between blocks of the same network, so there is no default.

use tch::{Kind, Tensor};

use crate::engine::weights::Scope;

/// The groups of every group norm in Stable Video Diffusion.
const GROUPS: i64 = 32;

/// Normalisation over 32 groups of channels and everything behind them.
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl GroupNorm {
    /// A norm of `channels`, which must be a multiple of 32.
    pub fn new(scope: Scope, channels: i64, eps: f64) -> Self {
        Self { weight: scope.get("weight", &[channels]), bias: scope.get("bias", &[channels]), eps }
    }

    /// (batch, channels, …) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(GROUPS, Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    /// What [`apply`](Self::apply) needs to normalise pieces of a whole that is nowhere in one: the whole's
    /// `moments`.
    pub fn statistics(&self, moments: &Moments) -> Statistics {
        let channels = self.weight.size()[0];
        let column = |each: fn(&Moment) -> Tensor| {
            let column: Vec<_> = moments.0.iter().map(each).collect();
            Tensor::stack(&column, 0).to_kind(Kind::Double).view([-1, GROUPS, channels / GROUPS])
        };
        let (means, variances) =
            (column(|piece| piece.mean.shallow_clone()), column(|piece| piece.variance.shallow_clone()));
        let counts: Vec<_> = moments.0.iter().map(|piece| piece.count).collect();
        let values = counts.iter().sum::<f64>() * (channels / GROUPS) as f64;
        let counts = Tensor::from_slice(&counts).to_device(means.device()).view([-1, 1, 1]);
        let over = |x: Tensor| x.sum_dim_intlist([0, 2].as_slice(), true, None) / values;
        // About the whole's mean, not from sums of squares: these lose all digits where the mean is large.
        let mean = over(&means * &counts);
        let variance = over((variances + (means - &mean).square()) * counts);
        let spread =
            |x: Tensor| x.expand([1, GROUPS, channels / GROUPS], false).reshape([channels]).to_kind(Kind::Float);
        Statistics { mean: spread(mean), variance: spread(variance) }
    }

    /// Normalises a piece (n, channels, pixels) of a whole by the whole's statistics, into `into`, which has its shape
    /// and may be the piece itself. Computes in float32, as torch's group norm does in half precision.
    pub fn apply(&self, piece: &Tensor, whole: &Statistics, into: &Tensor) {
        // A group norm whose statistics are known is a batch norm that is not in training.
        let unused = || Tensor::empty([0], (Kind::Float, piece.device()));
        let [weight, bias] = [&self.weight, &self.bias].map(|x| x.to_kind(Kind::Float));
        let (mean, variance) = (&whole.mean, &whole.variance);
        let (weight, bias, mean, variance) = (Some(&weight), Some(&bias), Some(mean), Some(variance));
        let _ =
            piece.native_batch_norm_out(into, &unused(), &unused(), weight, bias, mean, variance, false, 0.0, self.eps);
    }
}

/// Means and variances of a whole's channels, gathered piece by piece. They stay on the device: nothing waits for it.
#[derive(Default)]
pub struct Moments(Vec<Moment>);

struct Moment {
    /// Values of a channel.
    count: f64,
    /// (channels), float32.
    mean: Tensor,
    /// (channels), float32, about the piece's own mean.
    variance: Tensor,
}

impl Moments {
    /// Takes in a piece (n, channels, pixels).
    pub fn gather(&mut self, piece: &Tensor) {
        let (n, channels, pixels) = piece.size3().expect("pieces have three dimensions");
        // What a batch norm does in training, without its output. Its running statistics are of no use but to have the
        // answer in float32.
        let running = Tensor::zeros([channels], (Kind::Float, piece.device()));
        let (mean, variance) = piece.batch_norm_update_stats(Some(&running), Some(&running.ones_like()), 0.0);
        self.0.push(Moment { count: (n * pixels) as f64, mean, variance });
    }
}

/// The mean and variance of each channel's group, (channels) in float32.
pub struct Statistics {
    mean: Tensor,
    variance: Tensor,
}

/// Normalisation over the last dimension.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm over `width` values.
    pub fn new(scope: Scope, width: i64, eps: f64) -> Self {
        Self { weight: scope.get("weight", &[width]), bias: scope.get("bias", &[width]), eps }
    }

    /// (…, width) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::Weights;
    use tch::Device;

    #[test]
    fn pieces_are_normalised_as_the_whole() {
        let options = (Kind::Float, Device::Cpu);
        let affine = [("weight", Tensor::randn([64], options)), ("bias", Tensor::randn([64], options))];
        // Means far from zero, other ones in each channel, and pieces of unequal sizes.
        let whole = Tensor::randn([7, 64, 30], options) + Tensor::arange(64, options).view([64, 1]) * 10.0 + 1000.0;
        for (kind, tolerance) in [(Kind::Float, 2e-4), (Kind::Half, 2e-2), (Kind::BFloat16, 2e-1)] {
            let weights = affine.iter().map(|(name, tensor)| (name.to_string(), tensor.shallow_clone()));
            let weights = Weights::from_tensors("norm", weights, Device::Cpu, kind);
            let norm = GroupNorm::new(weights.root(), 64, 1e-5);
            let whole = whole.to_kind(kind);
            let mut moments = Moments::default();
            for piece in whole.split_with_sizes([1, 4, 2], 0) {
                moments.gather(&piece);
            }
            let statistics = norm.statistics(&moments);
            let exact = whole.to_kind(Kind::Double).transpose(0, 1).unsqueeze(0);
            let [weight, bias] = [&norm.weight, &norm.bias].map(|x| x.to_kind(Kind::Double));
            let exact = exact.group_norm(GROUPS, Some(weight), Some(bias), 1e-5, true).squeeze_dim(0).transpose(0, 1);
            let piece = whole.narrow(2, 3, 20).contiguous();
            norm.apply(&piece, &statistics, &piece);
            let error = (piece.to_kind(Kind::Double) - exact.narrow(2, 3, 20)).abs().max().double_value(&[]);
            assert!(error <= tolerance, "{error:e} in {kind:?}");
        }
    }
}
