//! Groth16 setup from a known trapdoor: parameters and verifying keys of test circuits, byte for byte
//! those of the library's generator with the same random generator, in a fifth of its time.
//!
//! A circuit is synthesised twice. The first pass counts; the second adds, for every coefficient in
//! constraint j, `coefficient * L_j(tau)` to its variable's A, B or C. What is left is one fixed-base
//! multiplication for each element, written to the file as it is made, so that memory stays at the
//! accumulators: 0.4 GB for PoRep of 2 KiB (the library: 5 GB).
//!
//! Whoever knows the trapdoor can forge proofs. It is derived from a constant here, so these
//! parameters are for test networks only.

use std::io::{self, Write};
use std::ops::{AddAssign, Neg, Range};

use bellperson::groth16::VerifyingKey;
use bellperson::{Circuit, ConstraintSystem, Index, LinearCombination, SynthesisError, Variable};
use blstrs::{Bls12, G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use ff::{Field, PrimeField};
use group::prime::PrimeCurveAffine;
use group::{Curve, Group, UncompressedEncoding};
use rand_08::RngCore;
use rayon::prelude::*;

/// The secrets of a setup, drawn in the order in which the library draws them.
#[derive(Clone)]
pub(crate) struct Trapdoor {
    pub g1: G1Projective,
    pub g2: G2Projective,
    pub alpha: Scalar,
    pub beta: Scalar,
    pub gamma: Scalar,
    pub delta: Scalar,
    pub tau: Scalar,
}

impl Trapdoor {
    pub(crate) fn draw(rng: &mut impl RngCore) -> Trapdoor {
        let g1 = G1Projective::random(&mut *rng);
        let g2 = G2Projective::random(&mut *rng);
        let alpha = Scalar::random(&mut *rng);
        let beta = Scalar::random(&mut *rng);
        let gamma = Scalar::random(&mut *rng);
        let delta = Scalar::random(&mut *rng);
        let tau = Scalar::random(&mut *rng);
        Trapdoor { g1, g2, alpha, beta, gamma, delta, tau }
    }
}

/// Elements of the parameters of one circuit, as scalars still.
pub(crate) struct Setup {
    trapdoor: Trapdoor,
    /// Points of the evaluation domain, a power of two.
    domain: usize,
    /// tau^domain - 1.
    vanishing: Scalar,
    /// A, B and C of the public inputs at tau.
    inputs: [Vec<Scalar>; 3],
    /// A, B and C of the private variables at tau; empty when only the verifying key is wanted.
    private: [Vec<Scalar>; 3],
}

/// What a setup keeps of the circuit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    VerifyingKey,
}

/// Told how far the work has come: the part's name and the fraction of the whole, 0 to 1.
pub(crate) type Told<'a> = &'a mut dyn FnMut(&'static str, f64);

impl Setup {
    /// Synthesises the circuit twice; `circuit` makes it anew each time.
    pub(crate) fn evaluate<C: Circuit<Scalar>>(
        circuit: impl Fn() -> C,
        trapdoor: Trapdoor,
        keep: Keep,
        told: Told<'_>,
    ) -> Result<Setup, SynthesisError> {
        told("counting constraints", 0.0);
        // The first input is the constant one.
        let mut counter = Counter { inputs: 1, private: 0, constraints: 0 };
        circuit().synthesize(&mut counter)?;
        // Each public input gets a constraint of its own, which keeps them independent.
        let domain = (counter.constraints + counter.inputs).next_power_of_two();
        told("evaluating constraints", 0.06);
        let (lagrange, vanishing) = lagrange_at(trapdoor.tau, domain);
        let private = if keep == Keep::All { counter.private } else { 0 };
        let mut evaluator = Evaluator {
            lagrange,
            constraint: 0,
            keep,
            inputs: [(); 3].map(|()| vec![Scalar::ZERO]),
            private: [(); 3].map(|()| Vec::with_capacity(private)),
            allocated: 0,
        };
        circuit().synthesize(&mut evaluator)?;
        for input in 0..counter.inputs {
            let value = evaluator.lagrange[evaluator.constraint];
            evaluator.inputs[0][input] += value;
            evaluator.constraint += 1;
        }
        let Evaluator { inputs, private, .. } = evaluator;
        Ok(Setup { trapdoor, domain, vanishing, inputs, private })
    }

    /// The verifying key: a few dozen multiplications.
    pub(crate) fn verifying_key(&self) -> VerifyingKey<Bls12> {
        let Trapdoor { g1, g2, alpha, beta, gamma, delta, .. } = &self.trapdoor;
        let over_gamma = invert(gamma);
        let ic = self.input_scalars().iter().map(|scalar| (*g1 * (*scalar * over_gamma)).to_affine()).collect();
        VerifyingKey {
            alpha_g1: (*g1 * alpha).to_affine(),
            beta_g1: (*g1 * beta).to_affine(),
            beta_g2: (*g2 * beta).to_affine(),
            gamma_g2: (*g2 * gamma).to_affine(),
            delta_g1: (*g1 * delta).to_affine(),
            delta_g2: (*g2 * delta).to_affine(),
            ic,
        }
    }

    /// beta * A + alpha * B + C of every public input, the constant one first.
    pub(crate) fn input_scalars(&self) -> Vec<Scalar> {
        self.combined(&self.inputs, 0..self.inputs[0].len(), Scalar::ONE)
    }

    /// Writes the whole parameter file.
    pub(crate) fn write(&self, to: &mut dyn Write, told: Told<'_>) -> io::Result<()> {
        told("preparing tables", 0.25);
        self.verifying_key().write(&mut *to)?;
        let g1 = self.g1_comb();
        let over_delta = invert(&self.trapdoor.delta);
        let [a, b, _] = &self.private;

        // tau^i * (tau^domain - 1) / delta.
        let first = self.vanishing * over_delta;
        write_points(to, &g1, self.domain - 1, &mut progress(told, "h", 0.27, 0.50), |range| {
            let mut power = first * self.trapdoor.tau.pow_vartime([range.start as u64]);
            let mut next = || {
                let scalar = power;
                power *= self.trapdoor.tau;
                scalar
            };
            range.map(|_| next()).collect()
        })?;
        write_points(to, &g1, a.len(), &mut progress(told, "l", 0.50, 0.65), |range| {
            self.combined(&self.private, range, over_delta)
        })?;
        let a = nonzero(&self.inputs[0], a);
        write_points(to, &g1, a.len(), &mut progress(told, "a", 0.65, 0.80), |range| a[range].to_vec())?;
        drop(a);
        let b = nonzero(&self.inputs[1], b);
        write_points(to, &g1, b.len(), &mut progress(told, "b in G1", 0.80, 0.84), |range| b[range].to_vec())?;
        drop(g1);
        let g2 = self.g2_comb();
        write_points(to, &g2, b.len(), &mut progress(told, "b in G2", 0.84, 1.0), |range| b[range].to_vec())
    }

    fn combined(&self, abc: &[Vec<Scalar>; 3], range: Range<usize>, factor: Scalar) -> Vec<Scalar> {
        let Trapdoor { alpha, beta, .. } = &self.trapdoor;
        range.map(|i| (abc[0][i] * beta + abc[1][i] * alpha + abc[2][i]) * factor).collect()
    }
}

fn invert(scalar: &Scalar) -> Scalar {
    scalar.invert().expect("a random scalar is not zero")
}

fn nonzero(inputs: &[Scalar], private: &[Scalar]) -> Vec<Scalar> {
    inputs.iter().chain(private).filter(|scalar| !bool::from(scalar.is_zero())).copied().collect()
}

/// Spreads the progress of one part over its share of the whole.
fn progress<'a>(told: Told<'a>, part: &'static str, from: f64, to: f64) -> impl FnMut(f64) + 'a {
    move |fraction| told(part, from + (to - from) * fraction)
}

/// First pass: only counts. The closures that make linear combinations are not called.
struct Counter {
    inputs: usize,
    private: usize,
    constraints: usize,
}

/// Second pass.
struct Evaluator {
    lagrange: Vec<Scalar>,
    constraint: usize,
    keep: Keep,
    inputs: [Vec<Scalar>; 3],
    private: [Vec<Scalar>; 3],
    allocated: usize,
}

impl Evaluator {
    fn add(&mut self, which: usize, combination: LinearCombination<Scalar>) {
        let value = self.lagrange[self.constraint];
        for (variable, coefficient) in combination.iter() {
            match variable.get_unchecked() {
                Index::Input(i) => self.inputs[which][i] += value * coefficient,
                Index::Aux(i) if self.keep == Keep::All => self.private[which][i] += value * coefficient,
                Index::Aux(_) => {}
            }
        }
    }
}

impl ConstraintSystem<Scalar> for Counter {
    type Root = Self;

    fn alloc<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.private += 1;
        Ok(Variable::new_unchecked(Index::Aux(self.private - 1)))
    }

    fn alloc_input<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.inputs += 1;
        Ok(Variable::new_unchecked(Index::Input(self.inputs - 1)))
    }

    fn enforce<A, AR, LA, LB, LC>(&mut self, _: A, _: LA, _: LB, _: LC)
    where
        A: FnOnce() -> AR,
        AR: Into<String>,
        LA: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LB: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LC: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
    {
        self.constraints += 1;
    }

    fn push_namespace<NR, N>(&mut self, _: N)
    where
        NR: Into<String>,
        N: FnOnce() -> NR,
    {
    }

    fn pop_namespace(&mut self) {}

    fn get_root(&mut self) -> &mut Self {
        self
    }
}

impl ConstraintSystem<Scalar> for Evaluator {
    type Root = Self;

    fn alloc<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        if self.keep == Keep::All {
            self.private.iter_mut().for_each(|column| column.push(Scalar::ZERO));
        }
        self.allocated += 1;
        Ok(Variable::new_unchecked(Index::Aux(self.allocated - 1)))
    }

    fn alloc_input<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.inputs.iter_mut().for_each(|column| column.push(Scalar::ZERO));
        Ok(Variable::new_unchecked(Index::Input(self.inputs[0].len() - 1)))
    }

    fn enforce<A, AR, LA, LB, LC>(&mut self, _: A, a: LA, b: LB, c: LC)
    where
        A: FnOnce() -> AR,
        AR: Into<String>,
        LA: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LB: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LC: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
    {
        self.add(0, a(LinearCombination::zero()));
        self.add(1, b(LinearCombination::zero()));
        self.add(2, c(LinearCombination::zero()));
        self.constraint += 1;
    }

    fn push_namespace<NR, N>(&mut self, _: N)
    where
        NR: Into<String>,
        N: FnOnce() -> NR,
    {
    }

    fn pop_namespace(&mut self) {}

    fn get_root(&mut self) -> &mut Self {
        self
    }
}

/// All Lagrange polynomials of the domain at tau, and the vanishing polynomial there.
///
/// L_j(tau) = w^j * (tau^m - 1) / (m * (tau - w^j)); the divisions share one inversion per chunk.
fn lagrange_at(tau: Scalar, domain: usize) -> (Vec<Scalar>, Scalar) {
    let root = (domain.trailing_zeros()..Scalar::S).fold(Scalar::ROOT_OF_UNITY, |root, _| root.square());
    let vanishing = tau.pow_vartime([domain as u64]) - Scalar::ONE;
    let factor = vanishing * invert(&Scalar::from(domain as u64));
    let chunk = (domain / 64).max(1);
    let mut values = vec![Scalar::ZERO; domain];
    values.par_chunks_mut(chunk).enumerate().for_each(|(index, values)| {
        let mut power = root.pow_vartime([(index * chunk) as u64]);
        let mut powers = Vec::with_capacity(values.len());
        let mut product = Scalar::ONE;
        for value in values.iter_mut() {
            *value = product;
            product *= tau - power;
            powers.push(power);
            power *= root;
        }
        let mut inverse = invert(&product);
        for (value, power) in values.iter_mut().zip(&powers).rev() {
            *value *= inverse * power * factor;
            inverse *= tau - power;
        }
    });
    (values, vanishing)
}

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
struct Comb<A, F> {
    table: Vec<A>,
    window_bits: usize,
    coordinates: Coordinates<A, F>,
}

impl Setup {
    fn g1_comb(&self) -> Comb<G1Affine, impl Field> {
        let point = |x, y| G1Affine::from_raw_unchecked(x, y, false);
        Comb::new(self.trapdoor.g1, G1_WINDOW_BITS, Coordinates { x: G1Affine::x, y: G1Affine::y, point })
    }

    fn g2_comb(&self) -> Comb<G2Affine, impl Field> {
        let point = |x, y| G2Affine::from_raw_unchecked(x, y, false);
        Comb::new(self.trapdoor.g2, G2_WINDOW_BITS, Coordinates { x: G2Affine::x, y: G2Affine::y, point })
    }
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
fn write_points<A, F>(
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
    use super::*;
    use bellperson::groth16::generate_random_parameters;
    use rand_08::SeedableRng;
    use rand_xorshift::XorShiftRng;

    /// A chain of squarings with the traits that matter: public inputs in the middle, a variable that is
    /// in no B, one that is in no A, coefficients beside one, constants.
    struct Chain {
        length: usize,
    }

    impl Circuit<Scalar> for Chain {
        fn synthesize<CS: ConstraintSystem<Scalar>>(self, cs: &mut CS) -> Result<(), SynthesisError> {
            let missing = || Err(SynthesisError::AssignmentMissing);
            let mut last = cs.alloc(|| "first", missing)?;
            for link in 0..self.length {
                let square = cs.alloc(|| "square", missing)?;
                cs.enforce(|| "squaring", |lc| lc + last, |lc| lc + last + CS::one(), |lc| lc + square);
                if link % 7 == 3 {
                    let public = cs.alloc_input(|| "public", missing)?;
                    let factor = Scalar::from(link as u64);
                    cs.enforce(|| "equal", |lc| lc + (factor, square), |lc| lc + CS::one(), |lc| lc + public);
                    let only_c = cs.alloc(|| "only in C", missing)?;
                    cs.enforce(|| "sum", |lc| lc + last + square, |lc| lc + public, |lc| lc + only_c - CS::one());
                }
                last = square;
            }
            Ok(())
        }
    }

    fn rng() -> XorShiftRng {
        XorShiftRng::from_seed([7; 16])
    }

    #[test]
    fn parameters_are_the_librarys_byte_for_byte() {
        for length in [1, 50, 3000] {
            let mut librarys = Vec::new();
            generate_random_parameters::<Bls12, _, _>(Chain { length }, &mut rng())
                .unwrap()
                .write(&mut librarys)
                .unwrap();
            let trapdoor = Trapdoor::draw(&mut rng());
            let setup = Setup::evaluate(|| Chain { length }, trapdoor.clone(), Keep::All, &mut |_, _| ()).unwrap();
            let mut ours = Vec::new();
            let mut fractions = vec![0.0];
            setup.write(&mut ours, &mut |_, fraction| fractions.push(fraction)).unwrap();
            assert!(ours == librarys, "{length} links: {} and {} bytes", ours.len(), librarys.len());
            assert!(fractions.is_sorted() && fractions.iter().all(|fraction| *fraction <= 1.0), "{fractions:?}");

            let alone = Setup::evaluate(|| Chain { length }, trapdoor, Keep::VerifyingKey, &mut |_, _| ()).unwrap();
            let mut key = Vec::new();
            alone.verifying_key().write(&mut key).unwrap();
            assert!(librarys.starts_with(&key), "the verifying key alone");
        }
    }

    #[test]
    fn combs_multiply_also_by_special_scalars() {
        let trapdoor = Trapdoor::draw(&mut rng());
        let setup = Setup::evaluate(|| Chain { length: 1 }, trapdoor, Keep::All, &mut |_, _| ()).unwrap();
        let mut rng = rng();
        let power = |bits: u64| Scalar::from(2).pow_vartime([bits]);
        let mut scalars = vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, -Scalar::from(8192), power(252), -power(252)];
        scalars.extend((0..20).map(|n| Scalar::from(1 << n) + Scalar::from(n % 3)));
        // In the last window of 14 bits, sum and entry are the same point for 2 * d * 2^252 - r.
        scalars.extend((1..8).map(|d| Scalar::from(2 * d) * power(252)));
        scalars.extend((0..50).map(|_| Scalar::random(&mut rng)));
        let expected: Vec<_> = scalars.iter().map(|scalar| (setup.trapdoor.g1 * scalar).to_affine()).collect();
        assert_eq!(setup.g1_comb().multiply_all(&scalars), expected);
        let expected: Vec<_> = scalars.iter().map(|scalar| (setup.trapdoor.g2 * scalar).to_affine()).collect();
        assert_eq!(setup.g2_comb().multiply_all(&scalars), expected);
        assert_eq!(setup.g1_comb().multiply_all(&[]), []);
    }
}
