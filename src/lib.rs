// SPDX-License-Identifier: MPL-2.0
fn plugin_init(_plugin: &gst::Plugin) -> Result<(), glib::BoolError> { let t = tch::Tensor::ones([2], (tch::Kind::Float, tch::Device::Cpu)); println!("{:?}", t.sum(tch::Kind::Float).double_value(&[])); Ok(()) }
gst::plugin_define!(
    torchvideo,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL-2.0",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
