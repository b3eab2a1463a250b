//! The three ways in which keys and values are stored, and what attention computes with each.
//!
//! Scores and mixtures are small matrix products whose tiles hold `R` lanes by a few vectors. In
//! f32 and q8_0 a stored value is widened to f32; bf16 is multiplied as it is, in pairs
//! ([`Simd::dot_stored`]), with queries and weights rounded to bf16. The layouts of a page are drawn
//! in [`crate::backend::cache`].

#![expect(clippy::needless_range_loop, reason = "indices are lanes, vectors and tokens, as in the formulas")]

use super::attention::{Ahead, Block, Weights};
use crate::backend::cache::SCALE_GROUP;
use crate::simd::{LANES, Simd};
use alti_tensor::PAGE_TOKENS;
use std::marker::PhantomData;
use std::ops::Range;

/// A way of storing keys and values.
pub(crate) trait Stored: Copy {
    /// Writes a query, times `factor`, as [`Stored::scores`] wants it: no more floats than its whole vectors have.
    fn query<S: Simd>(simd: S, query: &[f32], factor: f32, out: &mut [f32]);

    /// The scores of all tokens of the page; those of tokens that nobody stored are undefined. For each line of keys
    /// that is read, and of values in [`Stored::mix`], a line of `ahead` is asked for.
    ///
    /// # Safety
    /// `block` is a page of one head stored so, and each query has the head's width.
    unsafe fn scores<S: Simd, const R: usize>(
        simd: S,
        block: Block,
        queries: [*const f32; R],
        scores: &mut Weights<R>,
        ahead: &mut Ahead,
    );

    /// Brings a lane's weights into the form that [`Stored::mix`] wants, in place.
    fn round_weights<S: Simd>(simd: S, weights: &mut [f32; PAGE_TOKENS]);

    /// `o += sum_j p_j v_j`, for the tokens in `seen` in order, which begin and end with a pair where they are `WHOLE`
    /// pairs.
    ///
    /// # Safety
    /// `block` is a page of one head stored so, whose tokens in `seen` have been stored; each
    /// mixture has the head's width and no other writer.
    unsafe fn mix<S: Simd, const R: usize, const WHOLE: bool>(
        simd: S,
        block: Block,
        weights: [&[f32; PAGE_TOKENS]; R],
        seen: Range<usize>,
        mixtures: [*mut f32; R],
        ahead: &mut Ahead,
    );
}

/// Runs `$body` over the vectors of a row for `$lanes` lanes, as many vectors at a time as registers
/// allow: `$count` is a constant in each copy.
#[rustfmt::skip] // each run would move the inner macro further to the right
macro_rules! by_vectors {
    ($total:expr, $simd:ty, $lanes:expr, |$first:ident, $count:ident| $body:block) => {{
        let (mut $first, total) = (0, $total);
        macro_rules! take {
            ($n:literal) => {
                if const {
                    $n <= <$simd>::ATTENTION_VECTORS && ($n == 1 || $n * $lanes <= <$simd>::ATTENTION_SUMS)
                } {
                    const $count: usize = $n;
                    while total - $first >= $n {
                        $body
                        $first += $n;
                    }
                }
            };
        }
        take!(4);
        take!(2);
        take!(1);
    }};
}

/// How 16 stored keys or values become floats.
pub(crate) trait Widen: Copy {
    /// 16 of the values at `start`, from index `at` on.
    ///
    /// # Safety
    /// They are within what `start` points to.
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32;
    /// Whether groups of 32 share a scale.
    const SCALED: bool;
    /// Vectors of them in a cache line.
    const A_LINE: usize;
}

/// 4 bytes a value.
#[derive(Clone, Copy)]
pub(crate) struct Single;
/// 1 byte a value, and scales.
#[derive(Clone, Copy)]
pub(crate) struct Scaled;

impl Widen for Single {
    const SCALED: bool = false;
    const A_LINE: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(start.cast::<f32>().add(at)) }
    }
}

impl Widen for Scaled {
    const SCALED: bool = true;
    const A_LINE: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, start: *const u8, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        simd.to_f32(unsafe { simd.load_i8(start.cast::<i8>().add(at)) })
    }
}

/// Stored values become f32: f32 and q8_0.
#[derive(Clone, Copy)]
pub(crate) struct Widened<W>(PhantomData<W>);

impl<W: Widen> Stored for Widened<W> {
    #[inline(always)]
    fn query<S: Simd>(_: S, query: &[f32], factor: f32, out: &mut [f32]) {
        out.iter_mut().zip(query).for_each(|(out, value)| *out = value * factor);
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize>(
        simd: S,
        block: Block,
        queries: [*const f32; R],
        scores: &mut Weights<R>,
        ahead: &mut Ahead,
    ) {
        let head = block.head;
        let group = if W::SCALED { SCALE_GROUP } else { head.head_dim };
        let scales = block.start.wrapping_add(head.key_scales).cast::<u16>();
        by_vectors!(PAGE_TOKENS / LANES, S, R, |first, N| {
            let mut sums = [[simd.splat(0.0); N]; R];
            for (index, from) in (0..head.head_dim).step_by(group).enumerate() {
                let mut partial = [[simd.splat(0.0); N]; R];
                for d in from..(from + group).min(head.head_dim) {
                    ahead.ask(simd, if d.is_multiple_of(W::A_LINE) { N } else { 0 });
                    for v in 0..N {
                        // SAFETY: keys are `head_dim` runs of `PAGE_TOKENS`, queries `head_dim` floats.
                        unsafe {
                            let key = W::load(simd, block.start, d * PAGE_TOKENS + (first + v) * LANES);
                            for r in 0..R {
                                let query = simd.splat(*queries[r].add(d));
                                partial[r][v] = simd.mul_add(query, key, partial[r][v]);
                            }
                        }
                    }
                }
                for v in 0..N {
                    let at = index * PAGE_TOKENS + (first + v) * LANES;
                    for r in 0..R {
                        sums[r][v] = match W::SCALED {
                            false => partial[r][v],
                            // SAFETY: scales are `groups` runs of `PAGE_TOKENS`.
                            true => unsafe {
                                simd.mul_add(partial[r][v], simd.load_half(scales.add(at)), sums[r][v])
                            },
                        };
                    }
                }
            }
            // SAFETY: vectors of the page's scores.
            unsafe { put::<S, R, N>(simd, first, sums, scores) };
        });
    }

    #[inline(always)]
    fn round_weights<S: Simd>(_: S, _: &mut [f32; PAGE_TOKENS]) {}

    #[inline(always)]
    unsafe fn mix<S: Simd, const R: usize, const WHOLE: bool>(
        simd: S,
        block: Block,
        weights: [&[f32; PAGE_TOKENS]; R],
        seen: Range<usize>,
        mixtures: [*mut f32; R],
        ahead: &mut Ahead,
    ) {
        let head = block.head;
        let values = block.start.wrapping_add(head.values);
        let scales = block.start.wrapping_add(head.value_scales).cast::<u16>();
        if seen.is_empty() {
            return;
        }
        by_vectors!(head.width / LANES, S, R, |first, N| {
            // SAFETY: a mixture has `width` floats.
            let mut sums = unsafe { take::<S, R, N>(simd, first, mixtures) };
            for token in seen.clone() {
                ahead.ask(simd, if token.is_multiple_of(W::A_LINE) { N } else { 0 });
                for v in 0..N {
                    let column = (first + v) * LANES;
                    // SAFETY: values are `PAGE_TOKENS` runs of `width`, scales as many runs of `groups`.
                    let value = unsafe {
                        let value = W::load(simd, values, token * head.width + column);
                        match W::SCALED {
                            false => value,
                            true => {
                                let scale = *scales.add(token * head.groups + column / SCALE_GROUP);
                                simd.mul(value, simd.splat_half(scale))
                            }
                        }
                    };
                    for r in 0..R {
                        sums[r][v] = simd.mul_add(simd.splat(weights[r][token]), value, sums[r][v]);
                    }
                }
            }
            // SAFETY: as for the loads.
            unsafe { give::<S, R, N>(simd, first, sums, mixtures) };
        });
    }
}

/// 2 bytes a value, bfloat16, multiplied in pairs.
#[derive(Clone, Copy)]
pub(crate) struct Brain;

impl Stored for Brain {
    #[inline(always)]
    fn query<S: Simd>(simd: S, query: &[f32], factor: f32, out: &mut [f32]) {
        assert!(query.len().next_multiple_of(LANES) <= out.len(), "room for whole vectors");
        for (vector, from) in query.chunks(LANES).enumerate() {
            // SAFETY: a chunk has its length of floats, and `out` room for a vector of each.
            unsafe {
                let values = simd.load_partial(from.as_ptr(), from.len(), 0.0);
                simd.store_pairs::<false>(out.as_mut_ptr(), vector, simd.mul(values, simd.splat(factor)));
            }
        }
    }

    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize>(
        simd: S,
        block: Block,
        queries: [*const f32; R],
        scores: &mut Weights<R>,
        ahead: &mut Ahead,
    ) {
        by_vectors!(PAGE_TOKENS / LANES, S, R, |first, N| {
            let mut sums = [[simd.splat(0.0); N]; R];
            for pair in 0..block.head.head_dim.div_ceil(2) {
                ahead.ask(simd, N);
                for v in 0..N {
                    // SAFETY: keys are runs of `PAGE_TOKENS` pairs, and a query has as many pairs as runs.
                    unsafe {
                        let at = 4 * (pair * PAGE_TOKENS + (first + v) * LANES);
                        let keys = simd.load_bytes(block.start.add(at));
                        for r in 0..R {
                            sums[r][v] = simd.dot_stored(sums[r][v], keys, queries[r], pair);
                        }
                    }
                }
            }
            // SAFETY: vectors of the page's scores.
            unsafe { put::<S, R, N>(simd, first, sums, scores) };
        });
    }

    #[inline(always)]
    fn round_weights<S: Simd>(simd: S, weights: &mut [f32; PAGE_TOKENS]) {
        for v in 0..PAGE_TOKENS / LANES {
            // SAFETY: 16 floats are read before 8 pairs are written to an earlier or the same place.
            unsafe {
                let values = simd.load(weights[v * LANES..][..LANES].as_ptr());
                simd.store_pairs::<true>(weights.as_mut_ptr(), v, values);
            }
        }
    }

    #[inline(always)]
    unsafe fn mix<S: Simd, const R: usize, const WHOLE: bool>(
        simd: S,
        block: Block,
        weights: [&[f32; PAGE_TOKENS]; R],
        seen: Range<usize>,
        mixtures: [*mut f32; R],
        ahead: &mut Ahead,
    ) {
        let head = block.head;
        let values = block.start.wrapping_add(head.values);
        if seen.is_empty() {
            return;
        }
        assert!(!WHOLE || (seen.start | seen.end).is_multiple_of(2), "pairs are seen whole");
        by_vectors!(head.width / LANES, S, R, |first, N| {
            // SAFETY: a mixture has `width` floats.
            let mut sums = unsafe { take::<S, R, N>(simd, first, mixtures) };
            for pair in seen.start / 2..seen.end.div_ceil(2) {
                ahead.ask(simd, N);
                for v in 0..N {
                    // SAFETY: values are runs of `width` pairs, weights pairs of the page's tokens.
                    unsafe {
                        let at = 4 * (pair * head.width + (first + v) * LANES);
                        let mut value = simd.load_bytes(values.add(at));
                        if !WHOLE {
                            let (low, high) = (seen.contains(&(2 * pair)), seen.contains(&(2 * pair + 1)));
                            value = simd.keep_halves(value, low, high);
                        }
                        for r in 0..R {
                            sums[r][v] = simd.dot_stored(sums[r][v], value, weights[r].as_ptr(), pair);
                        }
                    }
                }
            }
            // SAFETY: as for the loads.
            unsafe { give::<S, R, N>(simd, first, sums, mixtures) };
        });
    }
}

/// Writes sums to the scores, from vector `first` on.
///
/// # Safety
/// `first + N` vectors are in a page.
#[inline(always)]
unsafe fn put<S: Simd, const R: usize, const N: usize>(
    simd: S,
    first: usize,
    sums: [[S::F32; N]; R],
    scores: &mut Weights<R>,
) {
    let mut rows = [std::ptr::null_mut(); R];
    for r in 0..R {
        rows[r] = scores[r].as_mut_ptr();
    }
    // SAFETY: the caller's promise.
    unsafe { give::<S, R, N>(simd, first, sums, rows) };
}

/// Vectors `first..first + N` of each row.
///
/// # Safety
/// Each row has them.
#[inline(always)]
unsafe fn take<S: Simd, const R: usize, const N: usize>(
    simd: S,
    first: usize,
    rows: [*mut f32; R],
) -> [[S::F32; N]; R] {
    let mut values = [[simd.splat(0.0); N]; R];
    for r in 0..R {
        for v in 0..N {
            // SAFETY: the caller's promise.
            values[r][v] = unsafe { simd.load(rows[r].add((first + v) * LANES)) };
        }
    }
    values
}

/// Writes vectors `first..first + N` of each row.
///
/// # Safety
/// Each row has them.
#[inline(always)]
unsafe fn give<S: Simd, const R: usize, const N: usize>(
    simd: S,
    first: usize,
    values: [[S::F32; N]; R],
    rows: [*mut f32; R],
) {
    for r in 0..R {
        for v in 0..N {
            // SAFETY: the caller's promise.
            unsafe { simd.store(rows[r].add((first + v) * LANES), values[r][v]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cache::HeadLayout;
    use crate::isa::{Isa, Kernel};
    use crate::memory::{AlignedBytes, CACHE_LINE};
    use alti_tensor::KvDType;

    /// Reads a whole page for two lanes: the lines of another that are left to ask for.
    struct ReadPage<K> {
        head: HeadLayout,
        stored: PhantomData<K>,
    }

    impl<K: Stored> Kernel for ReadPage<K> {
        type Output = usize;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> usize {
            let memory = AlignedBytes::zeroed(self.head.bytes).unwrap();
            let block = Block { start: memory.start(), head: self.head };
            let mut ahead = Ahead::block(block, PAGE_TOKENS);
            let queries = vec![0.0; self.head.width];
            let mut weights: Weights<2> = [[0.0; PAGE_TOKENS]; 2];
            let mut mixtures = vec![0.0; 2 * self.head.width];
            let (first, second) = mixtures.split_at_mut(self.head.width);
            let mixtures = [first.as_mut_ptr(), second.as_mut_ptr()];
            // SAFETY: a page of zeros, and queries and mixtures of the head's width.
            unsafe {
                K::scores(simd, block, [queries.as_ptr(); 2], &mut weights, &mut ahead);
                let weights = [&weights[0], &weights[1]];
                K::mix::<S, 2, true>(simd, block, weights, 0..PAGE_TOKENS, mixtures, &mut ahead);
            }
            ahead.lines()
        }
    }

    /// While a page is read another is asked for, all but its scales: neither late nor in a burst.
    #[test]
    fn a_line_is_asked_for_with_each_that_is_read() {
        fn left<K: Stored>(isa: Isa, dtype: KvDType) -> usize {
            isa.run(ReadPage::<K> { head: HeadLayout::new(dtype, 64), stored: PhantomData })
        }
        for isa in Isa::available() {
            assert_eq!(left::<Brain>(isa, KvDType::BF16), 0, "{}", isa.name());
            assert_eq!(left::<Widened<Single>>(isa, KvDType::F32), 0, "{}", isa.name());
            let scales = 2 * 2 * PAGE_TOKENS * size_of::<u16>();
            assert_eq!(left::<Widened<Scaled>>(isa, KvDType::Q8_0), scales / CACHE_LINE, "{}", isa.name());
        }
    }
}
