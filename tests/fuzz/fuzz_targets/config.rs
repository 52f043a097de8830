// SPDX-License-Identifier: MPL-2.0
//! Whatever a file holds, it is read or refused.
#![no_main]

use std::path::Path;

use gsttorchvideo::config::{Config, Wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: gst::init().unwrap(), |text: &str| {
    if let Err(err) = Config::parse(Path::new("config.yaml"), text, &Wanted::default()) {
        assert!(!err.to_string().is_empty());
    }
});
