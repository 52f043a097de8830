// SPDX-License-Identifier: MPL-2.0
//! Which device a model runs on, and in which precision.
//!
//! libtorch's CUDA half is a library of its own that the linker leaves out (tch-rs issue 907), and rightly: the plugin
//! must load where there is no CUDA. It is opened here, when the first element chooses its device.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use once_cell::sync::OnceCell;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::{Error, Result, memory};

/// The device that is asked for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceChoice {
    /// The first CUDA device, or the CPU where there is none.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device itself. Opens libtorch's CUDA half even for the CPU: libtorch looks for it once, when its first
    /// operation runs, and would not see it later.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is not there, with the reason.
    pub fn resolve(self) -> Result<Device> {
        memory::install();
        let count = cuda_count();
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(first_cuda().unwrap_or(Device::Cpu)),
            Self::Cuda(index) => {
                let refuse = |reason| Err(Error::Device { wanted: self.to_string(), reason });
                match count {
                    Ok(count) if index < count => Ok(Device::Cuda(index)),
                    Ok(0) => refuse("no CUDA device is visible here; use device=cpu or device=auto".into()),
                    Ok(count) => refuse(format!("there are {count} CUDA devices, numbered from 0")),
                    Err(reason) => refuse(format!(
                        "{reason}: `make setup CUDA=1` installs its libraries; without a GPU use device=cpu or device=auto"
                    )),
                }
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| Error::param("device", text, "use auto, cpu, cuda or cuda:N")),
        }
    }
}

/// The precision that is asked for, or one that a model's files name, where [`Self::Auto`] is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float16 on CUDA, float32 on the CPU.
    #[default]
    #[serde(skip)]
    Auto,
    /// float32.
    Fp32,
    /// float16.
    Fp16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Every precision that there is.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Fp16, Self::Bf16];

    /// libtorch's kind for this precision on `device`.
    pub fn kind(self, device: Device) -> Kind {
        match self {
            Self::Auto if device.is_cuda() => Kind::Half,
            Self::Auto | Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// The name that properties and messages give a kind: fp32, fp16 or bf16.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "fp16",
        Kind::BFloat16 => "bf16",
        _ => "fp32",
    }
}

/// How many CUDA devices there are, or why libtorch's CUDA half can't be opened.
fn cuda_count() -> Result<usize, String> {
    static CUDA: OnceCell<Result<libloading::Library, String>> = OnceCell::new();
    CUDA.get_or_init(open_cuda).as_ref().map_err(Clone::clone)?;
    Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or(0))
}

/// Why [`DeviceChoice::Auto`] takes the CPU. `None` if it takes a CUDA device.
pub fn why_cpu() -> Option<String> {
    first_cuda().err()
}

/// The first CUDA device, or why it can't be used.
fn first_cuda() -> Result<Device, String> {
    const DRIVER: &str = "/dev/nvidiactl";
    match cuda_count() {
        Ok(1..) => computes(0).map(|()| Device::Cuda(0)).map_err(|reason| format!("cuda:0 can't compute: {reason}")),
        _ if !Path::new(DRIVER).exists() => Err("there is no NVIDIA device here".into()),
        Err(reason) => Err(format!("there is an NVIDIA device, but {reason}")),
        Ok(0) => Err("there is an NVIDIA device, but none that CUDA shows to this process".into()),
    }
}

/// Why a CUDA device can't be used, if so: it may be too old for this libtorch, taken by somebody else, or full.
fn computes(index: usize) -> Result<()> {
    let ones = Tensor::f_ones([2], (Kind::Float, Device::Cuda(index)))?;
    match f64::try_from(ones.f_sum(Kind::Float)?)? {
        2.0 => Ok(()),
        sum => Err(Error::Torch(format!("1 + 1 = {sum}"))),
    }
}

/// Opens `libtorch_cuda.so` from libtorch's folder, where the plugin was built against one, else from the linker's path.
fn open_cuda() -> Result<libloading::Library, String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    const NAME: &str = "libtorch_cuda.so";
    let beside = Path::new(env!("TORCHVIDEO_LIBTORCH")).join(NAME);
    let file = if beside.exists() { beside } else { NAME.into() };
    // SAFETY: the library registers its operators with libtorch when it is opened, and that is all that its
    // initialisers do. It stays open for the life of the process.
    unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into).map_err(|err| {
        let reason = std::error::Error::source(&err).unwrap_or(&err);
        format!("libtorch's CUDA half can't be opened ({reason})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for (text, choice) in
            [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda:3", DeviceChoice::Cuda(3))]
        {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "CPU"] {
            let message = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(message.contains("auto, cpu, cuda"), "{message}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let message = DeviceChoice::Cuda(9999).resolve().unwrap_err().to_string();
        assert!(message.contains("cuda:9999"), "{message}");
        let taken = DeviceChoice::Auto.resolve().unwrap();
        assert_eq!(taken == Device::Cpu, why_cpu().is_some(), "{taken:?}: {:?}", why_cpu());
    }

    #[test]
    fn precision_follows_the_device() {
        assert_eq!(Precision::Auto.kind(Device::Cpu), Kind::Float);
        assert_eq!(Precision::Auto.kind(Device::Cuda(0)), Kind::Half);
        assert_eq!(Precision::Bf16.kind(Device::Cpu), Kind::BFloat16);
    }
}
