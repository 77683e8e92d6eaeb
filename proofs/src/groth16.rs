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

mod comb;
mod synthesis;

use std::io::{self, Write};
use std::ops::Range;

use bellperson::groth16::VerifyingKey;
use bellperson::{Circuit, SynthesisError};
use blstrs::{Bls12, G1Projective, G2Projective, Scalar};
use ff::Field;
use group::{Curve, Group};
use rand_08::RngCore;

use comb::{g1_comb, g2_comb, write_points};
use synthesis::{Counter, Evaluator, lagrange_at};

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
        let g1 = g1_comb(self.trapdoor.g1);
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
        let g2 = g2_comb(self.trapdoor.g2);
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

#[cfg(test)]
mod tests {
    use bellperson::ConstraintSystem;
    use bellperson::groth16::generate_random_parameters;
    use rand_08::SeedableRng;
    use rand_xorshift::XorShiftRng;

    use super::*;

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
}
