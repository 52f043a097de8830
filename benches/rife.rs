// SPDX-License-Identifier: MPL-2.0
//! How well and how fast RIFE rebuilds frames: every second frame of clips is left out and made of its neighbours.
//!
//!     python tests/reference/rife_quality.py clips FOLDER      # makes the clips
//!     cargo bench --bench rife -- FOLDER [DEVICE [PRECISION]]
//!
//! A clip is FOLDER/NAME.WIDTHxHEIGHT.rgb: frames of 8-bit RGB. Told are, for each clip, the mean PSNR and SSIM of the
//! rebuilt frames when the frame before is held, when both are blended, and when RIFE is run, everywhere and not across
//! cuts; and RIFE's frames per second, all work on the frames included.

use std::path::Path;
use std::time::{Duration, Instant};

use gsttorchvideo::engine::device::{DeviceChoice, Precision};
use gsttorchvideo::engine::pixels::Layout;
use gsttorchvideo::engine::rife::{Encoded, Model, Params, Time, begin, encode};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

fn psnr(seen: &[u8], wanted: &[u8]) -> f64 {
    let squares = seen.iter().zip(wanted).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2));
    // A frame without a fault counts as one with the smallest.
    let mean = squares.sum::<u64>().max(1) as f64 / seen.len() as f64;
    10.0 * (255.0f64.powi(2) / mean).log10()
}

/// That of Wang et al. (2004), of the luma of BT.601: Gaussian windows of 11x11, only where they are whole.
fn ssim(seen: &[u8], wanted: &[u8], width: i64, height: i64) -> f64 {
    let weights = Tensor::from_slice(&[0.299, 0.587, 0.114]);
    let luma = |frame| Tensor::from_slice(frame).view([height, width, 3]).to_kind(Kind::Double).matmul(&weights);
    let (x, y) = (luma(seen), luma(wanted));
    let window = (Tensor::arange(11, (Kind::Double, Device::Cpu)) - 5.0).square() / (-2.0 * 1.5 * 1.5);
    let window = window.softmax(0, Kind::Double);
    let means = Tensor::stack(&[&x, &y, &(&x * &x), &(&y * &y), &(&x * &y)], 0)
        .unsqueeze(1)
        .conv2d::<&Tensor>(&window.view([1, 1, 1, 11]), None, 1, 0, 1, 1)
        .conv2d::<&Tensor>(&window.view([1, 1, 11, 1]), None, 1, 0, 1, 1);
    let [x, y, xx, yy, xy] = [0, 1, 2, 3, 4].map(|i| means.get(i));
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let (product, squares) = (&x * &y, x.square() + y.square());
    let structure: Tensor = ((xy - &product) * 2.0 + c2) / (xx + yy - &squares + c2);
    let luminance: Tensor = (product * 2.0 + c1) / (squares + c1);
    (luminance * structure).mean(Kind::Double).double_value(&[])
}

fn run(model: &mut Model, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (name, size) = stem.rsplit_once('.').ok_or("a clip is named NAME.WIDTHxHEIGHT.rgb")?;
    let (width, height) = size.split_once('x').ok_or("a clip is named NAME.WIDTHxHEIGHT.rgb")?;
    let (width, height) = (width.parse()?, height.parse()?);
    let layout = Layout::rgb(width, height, false).ok_or("an empty frame")?;
    let data = std::fs::read(path)?;
    let frames: Vec<_> = data.chunks_exact(layout.size()).collect();
    let (params, cancel, half) = (Params::default(), Cancel::default(), Time::new(1, 2)?);
    let scale = params.scale_for(width, height);
    let compare = |seen: &[u8], wanted: &[u8]| [psnr(seen, wanted), ssim(seen, wanted, width as i64, height as i64)];
    let (mut sums, mut count, mut cuts) = ([[0.0; 2]; 4], 0u32, 0);
    let mut spent = Duration::ZERO;
    let mut kept: Option<Encoded> = None;
    for three in frames.windows(3).step_by(2) {
        let [before, wanted, behind] = three else { unreachable!("windows of three") };
        let begun = Instant::now();
        let first = kept.take().map_or_else(|| encode(model, before, &layout, scale), Ok)?;
        let second = encode(model, behind, &layout, scale)?;
        let is_cut = params.is_cut(&first.compare(&second)?);
        let made = begin(model, &first, &second, half, &cancel)?.finish()?.ok_or("not finite")?;
        spent += begun.elapsed();
        kept = Some(second);
        let blended: Vec<_> =
            before.iter().zip(*behind).map(|(a, b)| (u16::from(*a) + u16::from(*b)).div_ceil(2) as u8).collect();
        let rife = compare(made.as_ref(), wanted);
        let hold = compare(before, wanted);
        let seen = [hold, compare(&blended, wanted), rife, if is_cut { hold } else { rife }];
        sums.as_flattened_mut().iter_mut().zip(seen.as_flattened()).for_each(|(sum, seen)| *sum += seen);
        count += 1;
        cuts += u32::from(is_cut);
    }
    let [hold, blend, rife, judged] =
        sums.map(|[psnr, ssim]| format!("{:.2} dB {:.4}", psnr / f64::from(count), ssim / f64::from(count)));
    let fps = f64::from(count) / spent.as_secs_f64();
    println!(
        "{name} {size}: {count} frames; hold {hold}, blend {blend}, RIFE {rife}, \
         with {cuts} cuts held {judged}; {fps:.2} frames/s"
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(folder) = arguments.first() else {
        println!("skipped: no folder of clips is named");
        return Ok(());
    };
    let device = arguments.get(1).map_or("auto", String::as_str).parse::<DeviceChoice>()?.resolve()?;
    let precision = match arguments.get(2).map(String::as_str) {
        Some("fp16") => Precision::Fp16,
        Some("bf16") => Precision::Bf16,
        _ => Precision::Fp32,
    };
    let mut model = tch::no_grad(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/rife/rife-v4.25.safetensors");
        Model::load(&path, device, precision.kind(device), &Cancel::default())
    })?;
    let mut clips: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    clips.retain(|path| path.extension().is_some_and(|extension| extension == "rgb"));
    clips.sort();
    clips.iter().try_for_each(|path| run(&mut model, path))
}
