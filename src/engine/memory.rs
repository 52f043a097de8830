// SPDX-License-Identifier: MPL-2.0
//! How much memory a device has left, and how much the tensors on it have taken.
//!
//! The figures are libtorch's own on CUDA; on the CPU an allocator of ours keeps the account (`memory.cc`, which also
//! says why it keeps freed blocks). They are about every tensor of the process, whoever made it.

use std::fs;
use std::sync::Once;

use tch::Device;

/// The bytes of the tensors on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Now.
    pub current: u64,
    /// At most since [`reset_peak`].
    pub peak: u64,
}

/// Puts the CPU's allocator in. Tensors that are there already stay where they are, uncounted; other threads may be at
/// work with libtorch meanwhile. More than once does nothing.
pub fn install() {
    static ONCE: Once = Once::new();
    // SAFETY: hands libtorch an allocator that is never freed. Another thread sees this one or the one before, and this
    // one knows whose a block is.
    ONCE.call_once(|| unsafe { torchvideo_memory_install() });
}

/// What the tensors on `device` take.
pub fn usage(device: Device) -> Usage {
    let device = number(device);
    // SAFETY: reads counters.
    unsafe { Usage { current: torchvideo_memory_current(device), peak: torchvideo_memory_peak(device) } }
}

/// Lets the peak begin anew at what is taken now.
pub fn reset_peak(device: Device) {
    // SAFETY: writes a counter.
    unsafe { torchvideo_memory_reset_peak(number(device)) }
}

/// Bytes that new tensors on `device` could take: what nobody uses, and what is kept of tensors that are gone.
pub fn available(device: Device) -> u64 {
    // SAFETY: reads counters.
    let cached = unsafe { torchvideo_memory_cached(number(device)) };
    let free = match device {
        // SAFETY: asks the driver.
        Device::Cuda(_) => unsafe { torchvideo_memory_free(number(device)) },
        _ => host_free(),
    };
    free + cached
}

/// Gives what is kept of tensors that are gone back to the device.
pub fn release_cached(device: Device) {
    // SAFETY: frees blocks that no tensor uses.
    unsafe { torchvideo_memory_release_cached(number(device)) }
}

/// Lets tensors on the CPU take no more than these bytes in all: one more fails as if the memory were out. `None` takes
/// the limit away.
pub fn limit(bytes: Option<u64>) {
    // SAFETY: writes a number.
    unsafe { torchvideo_memory_limit(bytes.unwrap_or(u64::MAX)) }
}

fn number(device: Device) -> libc::c_int {
    match device {
        Device::Cuda(index) => index as libc::c_int,
        _ => -1,
    }
}

/// What Linux gives away without swapping, or what this process's control group leaves of it, if that is less.
fn host_free() -> u64 {
    let free = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(meminfo_available);
    let group = || {
        let number = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
        // Files that were read count as taken there, and are given up for anything else.
        let stat = fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        let files: u64 = ["inactive_file ", "active_file "]
            .iter()
            .filter_map(|name| stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok())
            .sum();
        Some((number("memory.max")? + files).saturating_sub(number("memory.current")?))
    };
    // Where nothing can be learnt, nothing is known to be in the way.
    free.unwrap_or(u64::MAX / 2).min(group().unwrap_or(u64::MAX))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

unsafe extern "C" {
    fn torchvideo_memory_install();
    fn torchvideo_memory_current(device: libc::c_int) -> u64;
    fn torchvideo_memory_peak(device: libc::c_int) -> u64;
    fn torchvideo_memory_reset_peak(device: libc::c_int);
    fn torchvideo_memory_cached(device: libc::c_int) -> u64;
    fn torchvideo_memory_free(device: libc::c_int) -> u64;
    fn torchvideo_memory_release_cached(device: libc::c_int);
    fn torchvideo_memory_limit(bytes: u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        assert_eq!(meminfo_available("MemTotal:  10 kB\nMemAvailable:     12 kB\nx\n"), Some(12 * 1024));
        assert_eq!(meminfo_available("MemTotal: 10 kB\n"), None);
        assert!(available(Device::Cpu) > 1 << 20);
    }
}
