// SPDX-License-Identifier: MPL-2.0
//! Properties that several elements have.

use gst::prelude::*;

use crate::engine::device::Precision;

/// The property `dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstTorchVideoDtype")]
pub enum Dtype {
    /// float16 on CUDA, float32 on the CPU.
    #[default]
    #[enum_value(name = "Auto: fp16 on CUDA, fp32 on the CPU", nick = "auto")]
    Auto,
    /// float32.
    #[enum_value(name = "Fp32: 32-bit floating point", nick = "fp32")]
    Fp32,
    /// float16.
    #[enum_value(name = "Fp16: 16-bit floating point", nick = "fp16")]
    Fp16,
    /// bfloat16.
    #[enum_value(name = "Bf16: 16-bit floating point with the range of fp32", nick = "bf16")]
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Auto => Self::Auto,
            Dtype::Fp32 => Self::Fp32,
            Dtype::Fp16 => Self::Fp16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// The property `device`'s value where it is not set.
pub const DEFAULT_DEVICE: &str = "auto";

/// The property `device`.
pub fn device_spec() -> glib::ParamSpec {
    glib::ParamSpecString::builder("device")
        .nick("Device")
        .blurb(
            "What the model runs on: auto (the first CUDA device, or the CPU where there is none), cpu, cuda or cuda:N",
        )
        .default_value(Some(DEFAULT_DEVICE))
        .mutable_ready()
        .build()
}

/// The property `dtype`.
pub fn dtype_spec() -> glib::ParamSpec {
    glib::ParamSpecEnum::builder::<Dtype>("dtype")
        .nick("Data type")
        .blurb("Precision that the model computes in: auto is fp16 on CUDA and fp32 on the CPU")
        .mutable_ready()
        .build()
}
