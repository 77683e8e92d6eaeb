//! Fixed-base multiplication: multiples of one point by many scalars at once, and how a parameter file holds them.

use std::io::{self, Write};
use std::ops::{AddAssign, Neg, Range};

use blstrs::{G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use ff::Field;
use group::prime::PrimeCurveAffine;
use group::{Curve, Group, UncompressedEncoding};
use rayon::prelude::*;

/// Bits of a window of G1. A window's table, 0.8 MB, fits a second-level cache.
const G1_WINDOW_BITS: usize = 14;
/// The same for G2, whose points are twice as large.
const G2_WINDOW_BITS: usize = 13;
/// Bits of a scalar, and one for the carry of signed digits.
const SCALAR_BITS: usize = 256;

/// Access to the coordinates of affine points, whose field has no public name.
#[derive(Clone, Copy)]
struct Coordinates<A, F> {
    x: fn(&A) -> F,
    y: fn(&A) -> F,
    point: fn(F, F) -> A,
}

/// Multiples of one point by every digit of every window, so that a multiplication is an addition for
/// each window. Digits are signed; the lower half uses negated points.
pub(super) struct Comb<A, F> {
    table: Vec<A>,
    window_bits: usize,
    coordinates: Coordinates<A, F>,
}

/// Multiplies a point of G1.
pub(super) fn g1_comb(base: G1Projective) -> Comb<G1Affine, impl Field> {
    let point = |x, y| G1Affine::from_raw_unchecked(x, y, false);
    Comb::new(base, G1_WINDOW_BITS, Coordinates { x: G1Affine::x, y: G1Affine::y, point })
}

/// Multiplies a point of G2.
pub(super) fn g2_comb(base: G2Projective) -> Comb<G2Affine, impl Field> {
    let point = |x, y| G2Affine::from_raw_unchecked(x, y, false);
    Comb::new(base, G2_WINDOW_BITS, Coordinates { x: G2Affine::x, y: G2Affine::y, point })
}

impl<A, F> Comb<A, F>
where
    A: PrimeCurveAffine<Scalar = Scalar> + Neg<Output = A>,
    A::Curve: AddAssign<A>,
    F: Field,
{
    fn new(point: A::Curve, window_bits: usize, coordinates: Coordinates<A, F>) -> Comb<A, F>
    where
        A::Curve: Curve<AffineRepr = A>,
    {
        let digits = 1 << (window_bits - 1);
        let mut multiples = Vec::with_capacity(SCALAR_BITS.div_ceil(window_bits) * digits);
        let mut base = point;
        for _ in 0..SCALAR_BITS.div_ceil(window_bits) {
            let mut multiple = base;
            for _ in 0..digits {
                multiples.push(multiple);
                multiple += base;
            }
            for _ in 0..window_bits {
                base = base.double();
            }
        }
        let mut table = vec![A::identity(); multiples.len()];
        A::Curve::batch_normalize(&multiples, &mut table);
        Comb { table, window_bits, coordinates }
    }

    /// The point times each scalar.
    ///
    /// All sums advance together, window by window: affine additions, whose divisions share one
    /// inversion, cost half of what projective ones do, and only one window's table is in use.
    fn multiply_all(&self, scalars: &[Scalar]) -> Vec<A> {
        let Coordinates { x, y, point } = self.coordinates;
        let mut digits = Digits::new(scalars, self.window_bits);
        // None is the point at infinity.
        let mut sums: Vec<Option<(F, F)>> = vec![None; scalars.len()];
        // Sums that take part in the shared inversion, with the point to add.
        let mut additions: Vec<Addition<F>> = Vec::with_capacity(scalars.len());
        for window in self.table.chunks_exact(1 << (self.window_bits - 1)) {
            let mut product = F::ONE;
            additions.clear();
            for (nth, (digit, sum)) in digits.next_window().zip(&mut sums).enumerate() {
                if digit == 0 {
                    continue;
                }
                let entry = &window[digit.unsigned_abs() as usize - 1];
                let added = (x(entry), if digit < 0 { -y(entry) } else { y(entry) });
                let Some((sum_x, sum_y)) = *sum else {
                    *sum = Some(added);
                    continue;
                };
                let run = added.0 - sum_x;
                if bool::from(run.is_zero()) {
                    // Equal or opposite points have no slope; this needs a special scalar.
                    let mut total = point(sum_x, sum_y).to_curve();
                    total += point(added.0, added.1);
                    let total = total.to_affine();
                    *sum = (!bool::from(total.is_identity())).then(|| (x(&total), y(&total)));
                    continue;
                }
                additions.push(Addition { nth, added, run, product });
                product *= run;
            }
            let mut inverse = product.invert().expect("no factor is zero");
            for Addition { nth, added, run, product } in additions.iter().rev() {
                let (sum_x, sum_y) = sums[*nth].expect("only sums that are points were noted");
                let slope = (added.1 - sum_y) * (inverse * product);
                inverse *= run;
                let total_x = slope.square() - sum_x - added.0;
                sums[*nth] = Some((total_x, slope * (sum_x - total_x) - sum_y));
            }
        }
        sums.into_iter().map(|sum| sum.map_or(A::identity(), |(x, y)| point(x, y))).collect()
    }
}

struct Addition<F> {
    nth: usize,
    added: (F, F),
    /// Difference of the x coordinates.
    run: F,
    /// Product of all runs before.
    product: F,
}

/// Signed digits of scalars, lowest window first.
struct Digits {
    limbs: Vec<[u64; 5]>,
    carries: Vec<i64>,
    window_bits: usize,
    window: usize,
}

impl Digits {
    fn new(scalars: &[Scalar], window_bits: usize) -> Digits {
        let limbs = scalars.iter().map(|scalar| {
            let bytes = scalar.to_bytes_le();
            let (words, _) = bytes.as_chunks::<8>();
            std::array::from_fn(|i| words.get(i).map_or(0, |word| u64::from_le_bytes(*word)))
        });
        Digits { limbs: limbs.collect(), carries: vec![0; scalars.len()], window_bits, window: 0 }
    }

    /// This window's digit of each scalar, from -2^(bits-1)+1 to 2^(bits-1).
    fn next_window(&mut self) -> impl Iterator<Item = i64> {
        let bits = self.window_bits;
        let (limb, shift) = (self.window * bits / 64, self.window * bits % 64);
        self.window += 1;
        self.limbs.iter().zip(&mut self.carries).map(move |(limbs, carry)| {
            let mut word = limbs[limb] >> shift;
            if shift + bits > 64 {
                word |= limbs[limb + 1] << (64 - shift);
            }
            let digit = (word & ((1 << bits) - 1)) as i64 + *carry;
            *carry = i64::from(digit > 1 << (bits - 1));
            digit - (*carry << bits)
        })
    }
}

/// Elements per write: large enough for all cores, small against the whole.
const BATCH: usize = 1 << 17;
/// Elements that share one inversion in each window.
const ADVANCED_TOGETHER: usize = 1 << 11;

/// Writes `count` multiples, preceded by their count as the format wants it.
pub(super) fn write_points<A, F>(
    to: &mut dyn Write,
    comb: &Comb<A, F>,
    count: usize,
    progress: &mut dyn FnMut(f64),
    scalars: impl Fn(Range<usize>) -> Vec<Scalar> + Sync,
) -> io::Result<()>
where
    A: PrimeCurveAffine<Scalar = Scalar> + UncompressedEncoding + Neg<Output = A> + Send + Sync,
    A::Curve: AddAssign<A>,
    F: Field,
{
    to.write_all(&u32::try_from(count).map_err(io::Error::other)?.to_be_bytes())?;
    for start in (0..count).step_by(BATCH) {
        progress(start as f64 / count as f64);
        let end = count.min(start + BATCH);
        let parts: Vec<Vec<u8>> = (start..end)
            .into_par_iter()
            .step_by(ADVANCED_TOGETHER)
            .map(|from| {
                let points = comb.multiply_all(&scalars(from..end.min(from + ADVANCED_TOGETHER)));
                points.iter().flat_map(|point| point.to_uncompressed().as_ref().to_vec()).collect()
            })
            .collect();
        for part in &parts {
            to.write_all(part)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand_08::SeedableRng;
    use rand_xorshift::XorShiftRng;

    use super::*;

    #[test]
    fn combs_multiply_also_by_special_scalars() {
        let mut rng = XorShiftRng::from_seed([7; 16]);
        let (g1, g2) = (G1Projective::random(&mut rng), G2Projective::random(&mut rng));
        let power = |bits: u64| Scalar::from(2).pow_vartime([bits]);
        let mut scalars = vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, -Scalar::from(8192), power(252), -power(252)];
        scalars.extend((0..20).map(|n| Scalar::from(1 << n) + Scalar::from(n % 3)));
        // In the last window of 14 bits, sum and entry are the same point for 2 * d * 2^252 - r.
        scalars.extend((1..8).map(|d| Scalar::from(2 * d) * power(252)));
        scalars.extend((0..50).map(|_| Scalar::random(&mut rng)));
        let expected: Vec<_> = scalars.iter().map(|scalar| (g1 * scalar).to_affine()).collect();
        assert_eq!(g1_comb(g1).multiply_all(&scalars), expected);
        let expected: Vec<_> = scalars.iter().map(|scalar| (g2 * scalar).to_affine()).collect();
        assert_eq!(g2_comb(g2).multiply_all(&scalars), expected);
        assert_eq!(g1_comb(g1).multiply_all(&[]), []);
    }
}
