//! The scalars the CPU executor computes in, and their elementary functions.
//!
//! f64 uses the exact functions and is the reference. f32 is the product: branch-free polynomials that the
//! compiler vectorises inside [`simd`]. Their multiply-adds are written out, because the compiler never fuses two
//! roundings into one by itself: one instruction where the processor has it (x86 since 2013, every 64-bit ARM),
//! a slow call elsewhere.

use gemm::Parallelism;

/// Runs `f` compiled for the widest vector instructions of this processor. `f` and what it calls must be
/// inlined for that to have an effect: mark helpers `#[inline(always)]`.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A real number type with what ELECTRA needs of it.
pub trait Scalar:
    bytemuck::Pod
    + Send
    + Sync
    + PartialOrd
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;

    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    /// self·factor + summand, in one rounding.
    fn multiply_add(self, factor: Self, summand: Self) -> Self;
    fn is_finite(self) -> bool;
    fn maximum(self, other: Self) -> Self;
    /// (Φ(x), φ(x)): distribution and density of the standard normal, for GELU and its derivative.
    fn normal(self) -> (Self, Self);

    /// `c ← a·b` or `c ← c + a·b` on one thread; strides in elements, C row-major with `c_stride`.
    ///
    /// # Safety
    /// The pointers must cover the extents the strides reach, and `c` must not overlap the others.
    unsafe fn gemm(
        dims: [usize; 3],
        c: *mut Self,
        c_stride: usize,
        add: bool,
        a: Strided<Self>,
        b: Strided<Self>,
    );

    #[inline(always)]
    fn gelu(self) -> Self {
        self * self.normal().0
    }

    /// d gelu / dx = Φ(x) + x·φ(x).
    #[inline(always)]
    fn gelu_derivative(self) -> Self {
        self.gelu_and_derivative().1
    }

    #[inline(always)]
    fn gelu_and_derivative(self) -> (Self, Self) {
        let (cumulative, density) = self.normal();
        (self * cumulative, cumulative + self * density)
    }
}

/// A matrix operand: element (i, j) is at `pointer + i·row + j·column`.
#[derive(Clone, Copy)]
pub struct Strided<S> {
    pub pointer: *const S,
    pub row: usize,
    pub column: usize,
}

macro_rules! gemm_for {
    ($scalar:ty) => {
        #[inline]
        unsafe fn gemm(
            [m, n, k]: [usize; 3],
            c: *mut Self,
            c_stride: usize,
            add: bool,
            a: Strided<Self>,
            b: Strided<Self>,
        ) {
            if m == 0 || n == 0 {
                return;
            }
            // SAFETY: the caller's promise, passed on.
            unsafe {
                gemm::gemm::<$scalar>(
                    m,
                    n,
                    k,
                    c,
                    1,
                    c_stride as isize,
                    add,
                    a.pointer,
                    a.column as isize,
                    a.row as isize,
                    b.pointer,
                    b.column as isize,
                    b.row as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        }
    };
}

impl Scalar for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    fn of(value: f64) -> f64 {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn multiply_add(self, factor: f64, summand: f64) -> f64 {
        self.mul_add(factor, summand)
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
    fn maximum(self, other: f64) -> f64 {
        self.max(other)
    }
    fn normal(self) -> (f64, f64) {
        let cumulative = 0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2);
        let density = (-0.5 * self * self).exp() * INVERSE_SQRT_TWO_PI;
        (cumulative, density)
    }
    gemm_for!(f64);
}

/// 1/√(2π), the density of the standard normal at 0.
const INVERSE_SQRT_TWO_PI: f64 = 0.398_942_280_401_432_7;

/// erfc(z) = exp(−z²)·t·P(t) with t = 1/(1 + 0.4·z), z ≥ 0: relative error 5.8e-8.
/// Fitted for this project by iteratively reweighted least squares on Chebyshev nodes, z in 0..9.5.
/// `shaders/prelude.wgsl` has the same coefficients.
const ERFC: [f32; 9] = [
    0.225_626_3,
    0.226_575_69,
    0.200_958_8,
    0.196_962_18,
    0.071_510_345,
    0.099_726_59,
    0.073_844_8,
    -0.135_472_39,
    0.040_267_766,
];

impl Scalar for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    #[inline(always)]
    fn of(value: f64) -> f32 {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }

    /// Cody and Waite reduction to |r| ≤ ln 2 / 2 and the Taylor polynomial of degree 7: relative error
    /// below 1.2e-7. Below −87 the result is 0, above 88 it is the largest power of two.
    #[inline(always)]
    fn exp(self) -> f32 {
        const MAGIC: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to an integer
        let x = if self < 88.0 { self } else { 88.0 };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
        let n = shifted - MAGIC;
        let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
        let mut p = 1.0f32 / 5040.0;
        p = p.mul_add(r, 1.0 / 720.0);
        p = p.mul_add(r, 1.0 / 120.0);
        p = p.mul_add(r, 1.0 / 24.0);
        p = p.mul_add(r, 1.0 / 6.0);
        p = p.mul_add(r, 0.5);
        p = p.mul_add(r, 1.0);
        p = p.mul_add(r, 1.0);
        let power = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
        let value = p * f32::from_bits(power);
        if x < -87.0 { 0.0 } else { value }
    }

    #[inline(always)]
    fn ln(self) -> f32 {
        ln_positive(self)
    }
    #[inline(always)]
    fn multiply_add(self, factor: f32, summand: f32) -> f32 {
        self.mul_add(factor, summand)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
    #[inline(always)]
    fn maximum(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }

    #[inline(always)]
    fn normal(self) -> (f32, f32) {
        let z = self.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let gaussian = Scalar::exp(-0.5 * self * self);
        let t = 1.0 / z.mul_add(0.4, 1.0);
        let mut p = ERFC[8];
        let mut i = 8;
        while i > 0 {
            i -= 1;
            p = p.mul_add(t, ERFC[i]);
        }
        let tail = 0.5 * gaussian * t * p;
        let cumulative = if self < 0.0 { tail } else { 1.0 - tail };
        (cumulative, gaussian * INVERSE_SQRT_TWO_PI as f32)
    }
    gemm_for!(f32);
}

/// Natural logarithm of a positive normal number, accurate to 2 ulp, also relative to a result near 0
/// (so `ln_positive(1 − u)` serves as log1p(−u) where 1 − u is exact).
///
/// x = m·2^e with m in [√½, √2), f = m − 1, s = f/(2+f), ln m = 2·atanh(s): the odd series in s to s⁹.
/// `shaders/prelude.wgsl` computes the same.
#[inline(always)]
pub fn ln_positive(x: f32) -> f32 {
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3); // √½
    let e = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let q = s * s;
    let mut p = 2.0f32 / 9.0;
    p = p.mul_add(q, 2.0 / 7.0);
    p = p.mul_add(q, 2.0 / 5.0);
    p = p.mul_add(q, 2.0 / 3.0);
    // ln(1+f) = 2s + s·q·p, and 2s = f − f·s: the form that loses nothing for small f.
    let log_m = s.mul_add(-(-q).mul_add(p, f), f);
    e.mul_add(0.693_145_75, e.mul_add(1.428_606_8e-6, log_m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_functions_follow_f64() {
        let mut worst = [0f64; 4];
        for i in -200_000..=200_000 {
            let x = i as f32 * 4e-4;
            let exact = f64::from(x).exp();
            if (-86.0..87.0).contains(&x) {
                worst[0] = worst[0].max((f64::from(Scalar::exp(x)) / exact - 1.0).abs());
            }
            let (cumulative, density) = Scalar::normal(x);
            let (c, d) = Scalar::normal(f64::from(x));
            worst[1] = worst[1].max((f64::from(cumulative) - c).abs());
            worst[2] = worst[2].max((f64::from(density) - d).abs());
        }
        for i in 0..(1u32 << 23) {
            if i % 37 != 0 && i > 1000 && i < (1 << 23) - 1000 {
                continue;
            }
            let u = (i as f32 + 0.5) * 2f32.powi(-23);
            let exact = f64::from(1.0 - u).ln();
            worst[3] = worst[3].max((f64::from(ln_positive(1.0 - u)) / exact - 1.0).abs());
        }
        assert!(worst[0] < 2.5e-7, "exp {:e}", worst[0]);
        // Three roundings at 1 (6e-8 each) and the fit.
        assert!(worst[1] < 2e-7, "normal distribution {:e}", worst[1]);
        assert!(worst[2] < 1e-7, "normal density {:e}", worst[2]);
        assert!(worst[3] < 3e-7, "ln {:e}", worst[3]);
        assert_eq!(Scalar::exp(-1e30f32), 0.0);
    }
}
