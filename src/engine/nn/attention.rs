// SPDX-License-Identifier: MPL-2.0
//! Scaled dot-product attention.

use tch::Tensor;

/// Multi-head attention of queries (n, queries, width) over keys and values (n, keys, width): (n, queries, width).
pub fn attend(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    let (n, queries, width) = query.size3().expect("queries have three dimensions");
    let split = |x: &Tensor| x.view([n, -1, heads, width / heads]).transpose(1, 2);
    let attended = Tensor::scaled_dot_product_attention(
        &split(query),
        &split(key),
        &split(value),
        None::<&Tensor>,
        0.0,
        false,
        None,
        false,
    );
    attended.transpose(1, 2).reshape([n, queries, width])
}
