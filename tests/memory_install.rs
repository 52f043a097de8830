// SPDX-License-Identifier: MPL-2.0
//! The CPU's allocator comes while libtorch is at work already. In a process of its own, where nothing has put it in yet.

use gsttorchvideo::engine::memory;
use tch::{Device, Kind, Tensor};

// One test: the allocator comes once.
#[test]
fn blocks_from_before_are_freed_where_they_came_from() {
    let cpu = Device::Cpu;
    let plain = |length: i64| Tensor::ones([length], (Kind::Float, cpu));
    // Their memory is oneDNN's, as that of what a convolution works with is. libtorch frees it with the allocator that is
    // there at that time, not with the one that it came from.
    let packed = |length: i64| plain(length).to_mkldnn();
    // In glibc's heap, in a mapping of its own, and a size that our allocator keeps.
    let lengths = [16, 1 << 10, 1 << 17, 1 << 20];

    let before: Vec<_> = lengths.into_iter().map(|length| (plain(length), packed(length))).collect();
    memory::install();
    assert_eq!(memory::usage(cpu).current, 0);
    drop(before);
    assert_eq!(memory::usage(cpu).current, 0, "what was not counted is not taken off");

    for length in lengths {
        let after = packed(length);
        assert!(memory::usage(cpu).current >= 4 * length as u64, "oneDNN's memory is counted");
        assert!(after.to_dense(None::<Kind>, false) == plain(length));
    }
    assert_eq!(memory::usage(cpu).current, 0);
}
