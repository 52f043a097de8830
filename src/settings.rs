// SPDX-License-Identifier: MPL-2.0
//! Properties that several elements have, and properties' values as JSON.

use std::collections::BTreeMap;

use gst::prelude::*;
use serde_json::Value as Json;

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
        .blurb(
            "Precision that the model computes in: auto is fp16 on CUDA and fp32 on the CPU, where the model allows it",
        )
        .mutable_ready()
        .build()
}

/// Values by the property's name.
pub type Layer = BTreeMap<String, Json>;

/// A frame rate, "25/2".
pub fn fraction(value: &Json) -> Option<gst::Fraction> {
    let (numer, denom) = value.as_str()?.split_once('/')?;
    let (numer, denom) = (numer.parse().ok()?, denom.parse().ok()?);
    (denom != 0).then(|| gst::Fraction::new(numer, denom))
}

/// A property's value as JSON: enumerations by their nicks, fractions as text.
pub fn to_json(value: &glib::Value) -> Json {
    if let Some((_, value)) = glib::EnumValue::from_value(value) {
        return value.nick().into();
    }
    let number =
        |value: f64| serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number);
    match value.type_() {
        glib::Type::STRING => value.get::<Option<String>>().ok().flatten().map_or(Json::Null, Into::into),
        glib::Type::I32 => value.get::<i32>().map_or(Json::Null, Into::into),
        glib::Type::I64 => value.get::<i64>().map_or(Json::Null, Into::into),
        glib::Type::U64 => value.get::<u64>().map_or(Json::Null, Into::into),
        glib::Type::BOOL => value.get::<bool>().map_or(Json::Null, Into::into),
        glib::Type::F64 => value.get::<f64>().map_or(Json::Null, number),
        _ => match (value.get::<gst::Fraction>(), value.get::<gst::Array>()) {
            (Ok(rate), _) => format!("{}/{}", rate.numer(), rate.denom()).into(),
            (_, Ok(array)) => array.iter().map(|value| to_json(value)).collect::<Vec<_>>().into(),
            _ => Json::Null,
        },
    }
}

/// The value for a property that JSON stands for; in words what it should have been, if it is of another type.
///
/// # Errors
/// What would be right.
pub fn from_json(spec: &glib::ParamSpec, value: &Json) -> Result<glib::Value, String> {
    let float = |value: &Json| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    if let Some(class) = glib::EnumClass::with_type(spec.value_type()) {
        let found = value.as_str().and_then(|nick| class.to_value_by_nick(nick));
        return found.ok_or_else(|| {
            let nicks: Vec<_> = class.values().iter().map(|value| value.nick()).collect();
            format!("use one of {}", nicks.join(", "))
        });
    }
    let (found, expected) = match spec.value_type() {
        glib::Type::STRING => (value.as_str().map(|text| text.to_value()), "use a text"),
        glib::Type::I32 => {
            (value.as_i64().and_then(|v| i32::try_from(v).ok()).map(|v| v.to_value()), "use a whole number")
        }
        glib::Type::I64 => (value.as_i64().map(|v| v.to_value()), "use a whole number"),
        glib::Type::U64 => (value.as_u64().map(|v| v.to_value()), "use a whole number from 0"),
        glib::Type::BOOL => (value.as_bool().map(|v| v.to_value()), "use true or false"),
        glib::Type::F64 => (float(value).map(|v| v.to_value()), "use a number"),
        of if of == gst::Fraction::static_type() => {
            let whole = value.as_i64().and_then(|v| i32::try_from(v).ok()).map(|v| gst::Fraction::new(v, 1));
            (fraction(value).or(whole).map(|v| v.to_value()), "use a frame rate like 25/2")
        }
        of if of == gst::Array::static_type() => {
            let numbers = value.as_array().and_then(|values| values.iter().map(float).collect::<Option<Vec<_>>>());
            (numbers.map(|numbers| gst::Array::new(numbers).to_value()), "use a list of numbers")
        }
        _ => (None, "it can't be set"),
    };
    found.ok_or_else(|| expected.into())
}
