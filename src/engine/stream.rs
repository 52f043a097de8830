// SPDX-License-Identifier: MPL-2.0
//! Streams: a GPU's queues of work. What is in one runs in order; what is in two runs side by side, copies beside
//! computations, unless an event holds it back.
//!
//! On the CPU all work is done when it is asked for. There is one stream then, and every event has come; the code that
//! uses them is the same, so that it is tested without a GPU.
//!
//! **Memory.** libtorch gives a tensor's memory back to the stream that was current when it was made, and that stream's
//! next tensor may get it while another stream still works on it. libtorch's own remedy (`record_stream`) gives it back
//! only when the device has come that far, so that it can't be counted beforehand. Here [`Pending`] owns what another
//! stream works on, and never lets go of it before the current stream waits for that work.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::thread;

use tch::{Device, Tensor};

/// A stream of a device.
pub struct Stream {
    device: Device,
    /// libtorch's number for it; without a meaning on the CPU.
    id: i64,
}

impl Stream {
    /// Another stream than the one that computes.
    pub fn new(device: Device) -> Self {
        Self::get(device, torchvideo_stream_new)
    }

    /// The stream that this thread's work goes to.
    pub fn current(device: Device) -> Self {
        Self::get(device, torchvideo_stream_current)
    }

    fn get(device: Device, get: unsafe extern "C" fn(c_int, *mut i64) -> *mut c_char) -> Self {
        let mut id = 0;
        if let Device::Cuda(index) = device {
            // SAFETY: writes to `id`.
            check(unsafe { get(index as c_int, &mut id) });
        }
        Self { device, id }
    }

    /// Does `work` with this as the current stream.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Back(Stream);
        impl Drop for Back {
            fn drop(&mut self) {
                self.0.enter();
            }
        }
        let _back = Back(self.enter());
        work()
    }

    /// Makes this the current stream; gives the one before.
    fn enter(&self) -> Self {
        let mut before = 0;
        if let Device::Cuda(index) = self.device {
            // SAFETY: writes to `before`; the stream is one of the device's.
            check(unsafe { torchvideo_stream_exchange(index as c_int, self.id, &mut before) });
        }
        Self { device: self.device, id: before }
    }

    /// The event that all is done which this stream has been given so far.
    pub fn record(&self) -> Event {
        let mut event = ptr::null_mut();
        if let Device::Cuda(index) = self.device {
            // SAFETY: writes to `event`; the stream is one of the device's.
            check(unsafe { torchvideo_stream_record(index as c_int, self.id, &mut event) });
        }
        Event { device: self.device, raw: NonNull::new(event) }
    }

    /// What this stream is given from now on waits for `event`.
    pub fn wait_for(&self, event: &Event) {
        if let (Device::Cuda(index), Some(raw)) = (self.device, event.raw) {
            // SAFETY: the event lives as long as its owner; the stream is one of the device's.
            check(unsafe { torchvideo_event_block(raw.as_ptr(), index as c_int, self.id) });
        }
    }

    /// Gives this stream `work`, to be done after these events. What it reads must be there then; what it writes must
    /// have been made on the current stream, and be free then. What it gives must own both.
    pub fn beside<'a, T>(&self, after: impl IntoIterator<Item = &'a Event>, work: impl FnOnce() -> T) -> Pending<T> {
        /// What was begun when `work` panicked has no owner any more.
        struct Unwinding<'s>(&'s Stream);
        impl Drop for Unwinding<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.record().block();
                }
            }
        }
        after.into_iter().for_each(|event| self.wait_for(event));
        let unwinding = Unwinding(self);
        let what = Some(self.run(work));
        drop(unwinding);
        Pending { what, done: Arc::new(self.record()) }
    }
}

/// A point in a stream's work.
pub struct Event {
    device: Device,
    /// `None` where everything has been done already.
    raw: Option<NonNull<RawEvent>>,
}

// SAFETY: an event is a mark in a device's queue, which any thread may wait for; nothing here changes it.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Waits until it has come.
    pub fn wait(&self) {
        if let Some(raw) = self.raw {
            // SAFETY: the event lives as long as its owner.
            check(unsafe { torchvideo_event_wait(raw.as_ptr()) });
        }
    }

    /// What the current stream is given from now on waits until it has come.
    pub fn block(&self) {
        Stream::current(self.device).wait_for(self);
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(raw) = self.raw {
            // SAFETY: nobody else has it. Who waits for it already goes on doing so.
            unsafe { torchvideo_event_free(raw.as_ptr()) }
        }
    }
}

/// Work on another stream that may be under way, and all tensors that it reads or writes.
pub struct Pending<T> {
    what: Option<T>,
    done: Arc<Event>,
}

impl<T> Pending<T> {
    /// Its tensors, for the current stream, which waits for the work.
    pub fn ready(mut self) -> T {
        self.done.block();
        self.what.take().expect("it is taken once")
    }

    /// Its tensors, for this thread, which waits for the work.
    pub fn wait(mut self) -> T {
        self.done.wait();
        self.what.take().expect("it is taken once")
    }

    /// The event that it is done.
    pub fn done(&self) -> Arc<Event> {
        self.done.clone()
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if self.what.is_some() {
            self.done.block();
        }
    }
}

/// The streams that tensors come and go on while others are computed with.
pub struct Lanes {
    device: Device,
    /// To the device.
    pub upload: Stream,
    /// From it.
    pub download: Stream,
}

impl Lanes {
    /// Lanes of a device.
    pub fn new(device: Device) -> Self {
        Self { device, upload: Stream::new(device), download: Stream::new(device) }
    }

    /// Room on the device for a tensor of the host's.
    pub fn room_for(&self, host: &Tensor) -> Tensor {
        Tensor::empty(host.size(), (host.kind(), self.device))
    }

    /// Copies a tensor from pinned memory. The copy begins when the current stream has done what it was given so far,
    /// which may be using the same memory: so ask for the next tensor before giving it the work on this one.
    pub fn upload(&self, host: &Tensor) -> Pending<Tensor> {
        self.upload_to(self.room_for(host), &Stream::current(self.device).record(), host)
    }

    /// Copies a tensor from pinned memory to a place that is `free` then, whatever the current stream has to do.
    pub fn upload_to(&self, place: Tensor, free: &Event, host: &Tensor) -> Pending<Tensor> {
        self.upload.beside([free], || {
            copy(&place, host);
            place
        })
    }

    /// Copies a tensor, contiguous and as the current stream leaves it, to pinned memory. Gives it, too; nothing may
    /// be written to it before the copy is done.
    pub fn download(&self, x: Tensor) -> Pending<(Tensor, Tensor)> {
        let is_there = Stream::current(self.device).record();
        self.download.beside([&is_there], || (to_host(&x), x))
    }
}

/// A copy in the host's memory, pinned if `x` is on a GPU; nobody waits for it.
pub fn to_host(x: &Tensor) -> Tensor {
    x.to_device_(Device::Cpu, x.kind(), true, true)
}

/// Copies without waiting, where it is between a GPU and pinned memory.
pub fn copy(to: &Tensor, from: &Tensor) {
    // SAFETY: both are tensors of libtorch's; sizes and types are checked there.
    check(unsafe { torchvideo_copy(to.as_ptr().cast(), from.as_ptr().cast()) });
}

/// Panics with what libtorch said, as operations of `tch` do: a worker makes an error of it.
fn check(said: *mut c_char) {
    if said.is_null() {
        return;
    }
    // SAFETY: it is a text that is ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(said).to_string_lossy().into_owned();
        libc::free(said.cast());
        text
    };
    // A second panic would end the process.
    if !thread::panicking() {
        panic!("{text}");
    }
}

/// A `c10::Event`.
#[repr(C)]
struct RawEvent {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn torchvideo_stream_new(device: c_int, id: *mut i64) -> *mut c_char;
    fn torchvideo_stream_current(device: c_int, id: *mut i64) -> *mut c_char;
    fn torchvideo_stream_exchange(device: c_int, id: i64, before: *mut i64) -> *mut c_char;
    fn torchvideo_stream_record(device: c_int, id: i64, event: *mut *mut RawEvent) -> *mut c_char;
    fn torchvideo_event_block(event: *const RawEvent, device: c_int, id: i64) -> *mut c_char;
    fn torchvideo_event_wait(event: *const RawEvent) -> *mut c_char;
    fn torchvideo_event_free(event: *mut RawEvent);
    fn torchvideo_copy(to: *const libc::c_void, from: *const libc::c_void) -> *mut c_char;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::worker::guarded;
    use tch::Kind;

    const CPU: Device = Device::Cpu;

    fn numbers() -> Tensor {
        Tensor::arange(6, (Kind::Float, CPU)).view([2, 3])
    }

    #[test]
    fn what_comes_and_goes_is_a_copy() {
        let lanes = Lanes::new(CPU);
        let x = numbers();
        let mut up = lanes.upload(&x).ready();
        assert!(up == x);
        let _ = up.fill_(7.0);
        assert!(x == numbers());
        let (host, _) = lanes.download(up.shallow_clone()).wait();
        let _ = up.fill_(8.0);
        assert!(host == Tensor::full([2, 3], 7.0, (Kind::Float, CPU)));
        let place = lanes.room_for(&x);
        let free = Stream::current(CPU).record();
        assert!(lanes.upload_to(place.shallow_clone(), &free, &x).ready() == x && place == x);
    }

    #[test]
    fn what_nobody_takes_is_let_go() {
        let lanes = Lanes::new(CPU);
        let pending = lanes.upload(&numbers());
        let done = pending.done();
        drop(pending);
        done.wait();
        done.block();
    }

    #[test]
    fn failures_are_panics_that_become_errors() {
        let x = numbers();
        let wrong = guarded(|| {
            copy(&x, &Tensor::zeros([5], (Kind::Float, CPU)));
            Ok(())
        });
        let message = wrong.unwrap_err().to_string();
        assert!(message.contains("size of tensor a (3) must match the size of tensor b (5)"), "{message}");
        // Where work panics, the stream before is the current one again.
        let failed = guarded(|| Ok(Stream::new(CPU).beside([], || x.matmul(&x)).ready()));
        assert!(failed.is_err());
    }
}
