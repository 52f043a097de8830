// SPDX-License-Identifier: MPL-2.0
//! The threads that libtorch computes with on the CPU.
//!
//! They are libgomp's. Where one waits for another it spins, for milliseconds, in the hope that this is shorter than to
//! sleep; and where encoders and other elements want the same processors, it spins in the place of the one that it
//! waits for. libgomp gives up sooner once it has more threads than there are processors. So it gets some that do nothing.

use std::sync::Once;
use std::thread;

use tch::{Device, Kind, Tensor};

use super::worker::guarded;

/// Lets threads that wait for one another sleep soon. More than once does nothing.
pub fn yield_soon() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let idle = || {
            // Large enough to be divided among threads, which then belong to this one, as long as it is there.
            let _ = guarded(|| Ok(Tensor::f_ones([1 << 20], (Kind::Float, Device::Cpu))?.f_neg()?));
            loop {
                thread::park();
            }
        };
        // Without it, all is as it would have been.
        let _ = thread::Builder::new().name("torchvideo-idle".into()).spawn(idle);
    });
}
