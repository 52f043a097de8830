// SPDX-License-Identifier: MPL-2.0
//! The account of the tensors' memory. In a process of its own, because it is about all tensors of one.

use gsttorchvideo::engine::memory::{self, Usage};
use tch::{Device, Kind, Tensor};

const MIB: u64 = 1 << 20;

fn tensor(mib: u64) -> Tensor {
    Tensor::f_zeros([(mib * MIB) as i64], (Kind::Uint8, Device::Cpu)).unwrap()
}

// One test: the account is one.
#[test]
fn tensors_are_counted_limited_and_reused() {
    memory::install();
    let cpu = Device::Cpu;
    let start = memory::usage(cpu).current;
    let over = |usage: Usage| (usage.current - start, usage.peak - start);

    let small = Tensor::f_zeros([1000], (Kind::Uint8, cpu)).unwrap();
    assert_eq!(over(memory::usage(cpu)).0, 1000);
    drop(small);

    memory::reset_peak(cpu);
    let (a, b) = (tensor(8), tensor(4));
    assert_eq!(over(memory::usage(cpu)), (12 * MIB, 12 * MIB));
    let place = a.data_ptr();
    drop(a);
    assert_eq!(over(memory::usage(cpu)), (4 * MIB, 12 * MIB));

    // The freed block serves the next tensor of its size, and no other.
    let other = tensor(3);
    assert_ne!(other.data_ptr(), place);
    let again = tensor(8);
    assert_eq!(again.data_ptr(), place);
    assert_eq!(again.sum(Kind::Int64).int64_value(&[]), 0);
    drop((b, other, again));
    assert_eq!(memory::usage(cpu).current, start);
    memory::reset_peak(cpu);
    assert_eq!(over(memory::usage(cpu)), (0, 0));
    memory::release_cached(cpu);

    memory::limit(Some(start + 10 * MIB));
    let kept = tensor(6);
    let err = Tensor::f_zeros([6 << 20], (Kind::Uint8, cpu)).unwrap_err();
    assert!(err.to_string().contains("out of memory"), "{err}");
    assert!(matches!(err.into(), gsttorchvideo::engine::Error::OutOfMemory(_)));
    drop(kept);
    let fits = tensor(6);
    memory::limit(None);
    drop((fits, tensor(20)));
    assert_eq!(memory::usage(cpu).current, start);
}
