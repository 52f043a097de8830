// SPDX-License-Identifier: MPL-2.0
//! Scaled dot-product attention.

use tch::Tensor;

/// Rows of a batch that run at once. CUDA's kernels count them in a dimension of their grid, which ends at 65535
/// (pytorch issue 142228); attention over time has a row for every latent pixel.
const ROWS: i64 = 1 << 15;

/// Multi-head attention of queries (n, queries, width) over keys and values (n, keys, width): (n, queries, width).
pub fn attend(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    attend_by(ROWS, query, key, value, heads)
}

/// [`attend`], no more than `rows` of n at once.
fn attend_by(rows: i64, query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    let (n, queries, width) = query.size3().expect("queries have three dimensions");
    if n > rows {
        let [query, key, value] = [query, key, value].map(|x| x.split(rows, 0));
        let parts: Vec<_> =
            query.iter().zip(&key).zip(&value).map(|((q, k), v)| attend_by(rows, q, k, v, heads)).collect();
        return Tensor::cat(&parts, 0);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_in_parts_is_the_whole() {
        let _ = tch::no_grad_guard();
        let [query, key, value] = [5, 7, 7].map(|length| Tensor::randn([8, length, 12], tch::kind::FLOAT_CPU));
        let whole = attend(&query, &key, &value, 3);
        for rows in [1, 3, 8] {
            let parts = attend_by(rows, &query, &key, &value, 3);
            assert!((parts - &whole).abs().max().double_value(&[]) < 1e-6, "{rows} rows at once");
        }
    }
}
