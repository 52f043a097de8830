// SPDX-License-Identifier: MPL-2.0
//! The threads that libtorch computes with on the CPU.
//!
//! They are libgomp's. Where one waits for another it spins, for milliseconds, in the hope that this is shorter than to
//! sleep; and where encoders and other elements want the same processors, it spins in the place of the one that it
//! waits for. libgomp gives up sooner once it has more threads than there are processors. So it gets some that do nothing.

#[cfg(target_os = "linux")]
use std::cell::Cell;
use std::sync::Once;
use std::thread;

use tch::{Device, Kind, Tensor};

use super::worker::guarded;

/// How much nicer a thread is that gives way: where both want one processor, it gets a tenth of it.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Lets the thread that calls, and those that libtorch starts for it later, compute where others leave the processor to
/// them: who was asleep and has little to do runs at once. There is no way back; a second time does nothing. Only Linux
/// knows niceness of threads; elsewhere nothing happens.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        thread_local! {
            static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
        }
        if !GIVES_WAY.replace(true) {
            // SAFETY: they take numbers; 0 is the thread that calls. More than the nicest is the nicest.
            unsafe {
                let which = libc::PRIO_PROCESS as _;
                libc::setpriority(which, 0, libc::getpriority(which, 0) + NICER);
            }
        }
    }
}

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
