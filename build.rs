// SPDX-License-Identifier: MPL-2.0
//! Records the plugin's version, and the place of libtorch in the run path of everything that is linked; compiles the
//! little C++ that there is.

use std::path::Path;

fn main() {
    gst_plugin_version_helper::info();

    // torch-sys (`links = "tch"`) says where it found libtorch. The run path makes the plugin load from any
    // directory, in a clean environment. DT_RPATH and not DT_RUNPATH: it also serves libraries that are opened
    // later (libtorch_cuda.so) and puts libtorch's own libgomp before the system's.
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names libtorch's folder");
    let lib = Path::new(&lib).canonicalize().unwrap_or_else(|err| panic!("libtorch's folder {lib}: {err}"));
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}", lib.display());
    println!("cargo:rustc-env=TORCHVIDEO_LIBTORCH={}", lib.display());

    let include = lib.with_file_name("include");
    let sources = ["src/engine/memory.cc", "src/engine/stream.cc"];
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    cc::Build::new().cpp(true).std("c++17").flag("-isystem").flag(&include).files(sources).compile("torchvideo_engine");
}
