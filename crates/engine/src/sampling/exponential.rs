//! The exponential function of a softmax. It exists because the standard library's is a call for each value, and its last
//! bit differs from system to system: this one compiles to vector instructions, and gives the same bits everywhere.

/// `e^x` for `x` of at most 0, to 2 units in the last place; below -87, where it would be subnormal, that of -87.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the series of `e^r` (degree 6, error 2^-27) times `2^n`. `ln 2` is subtracted
/// in two parts, the first with so few bits that its product with `n` is exact (W. J. Cody and W. Waite, "Software manual
/// for the elementary functions", 1980).
#[inline(always)]
pub(super) fn exponential(x: f32) -> f32 {
    /// Adding 3 * 2^22 leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -87.0 { x } else { -87.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut series = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // The exponent's field, moved by n: the bits above it in `rounded` fall out on the left.
    series * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::exponential;

    #[test]
    fn it_is_the_exponential() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exponential(x)) / exact - 1.0).abs();
            assert!(error < 2.5e-7, "e^{x}: {} for {exact}", exponential(x));
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(f32::NEG_INFINITY) < 1e-37 && exponential(-1e30) > 0.0);
    }
}
