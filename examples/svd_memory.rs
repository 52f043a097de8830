// SPDX-License-Identifier: MPL-2.0
//! How clips of SVD-XT in fp16 on a GPU would be made in so much memory, and what that would take, as it is estimated:
//! `cargo run --release --example svd_memory`. No weights and no GPU are needed.

use gsttorchvideo::engine::image::Fit;
use gsttorchvideo::engine::svd::{ModelInfo, Params, Planner, Stage};
use tch::{Device, Kind};

fn main() {
    let info = ModelInfo::published();
    println!("{:>12} {:>5}  encode denoise decode  (GB)  how", "clip", "GB");
    for (width, height, num_frames) in [(1024, 576, 25), (1280, 720, 24)] {
        let params = Params { width, height, num_frames, keyframe_fit: Fit::Crop, ..Params::default() };
        let planner = Planner::new(&info, &params, Device::Cuda(0), Kind::Half, [width, height]);
        for gigabytes in [6u64, 8, 10, 12, 16, 24, 80] {
            let clip = format!("{width}x{height}x{num_frames}");
            match planner.plan(Stage::Encode, gigabytes * 1_000_000_000) {
                Some(way) => {
                    let bytes = Stage::ALL.map(|stage| planner.bytes(stage, &way) as f64 / 1e9);
                    let [encode, denoise, decode] = bytes;
                    println!("{clip:>12} {gigabytes:>5}  {encode:6.2} {denoise:7.2} {decode:6.2}        {way}");
                }
                None => println!(
                    "{clip:>12} {gigabytes:>5}  {}",
                    planner.refusal(gigabytes * 1_000_000_000, format!("max-memory={gigabytes}000000000"))
                ),
            }
        }
    }
}
