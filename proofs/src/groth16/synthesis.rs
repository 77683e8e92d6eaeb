//! Synthesis of a circuit, twice: the first pass counts, the second evaluates every variable's polynomials at tau.

use bellperson::{ConstraintSystem, Index, LinearCombination, SynthesisError, Variable};
use blstrs::Scalar;
use ff::{Field, PrimeField};
use rayon::prelude::*;

use super::{Keep, invert};

/// First pass: only counts. The closures that make linear combinations are not called.
pub(super) struct Counter {
    pub inputs: usize,
    pub private: usize,
    pub constraints: usize,
}

/// Second pass.
pub(super) struct Evaluator {
    pub lagrange: Vec<Scalar>,
    pub constraint: usize,
    pub keep: Keep,
    pub inputs: [Vec<Scalar>; 3],
    pub private: [Vec<Scalar>; 3],
    pub allocated: usize,
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
pub(super) fn lagrange_at(tau: Scalar, domain: usize) -> (Vec<Scalar>, Scalar) {
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
