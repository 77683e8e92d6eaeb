//! SNARKs made from the secrets of the test parameters instead of a witness. The unmodified verifier
//! of a test network accepts them, and they cost a millisecond, so that tests of everything around a
//! proof need neither parameters of a gigabyte nor minutes. They prove nothing.
//!
//! The vanilla proof is still made and verified before: only its compression is simulated.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bellperson::groth16;
use blstrs::{Bls12, Scalar};
use curio_core::{SealProof, SpId};
use ff::Field;
use group::Curve;
use rand_08::SeedableRng;
use rand_xorshift::XorShiftRng;

use crate::groth16::Keep;
use crate::params::{self, Circuit, ParamsError, Set};
use crate::{ProofError, VerifyInput, library};

// A release build leaves the module out; this keeps it so when somebody changes the attribute.
const _: () = assert!(cfg!(debug_assertions), "simulated proofs must not reach a release build");

/// A proof that proves nothing and verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedProof(Vec<u8>);

impl SimulatedProof {
    /// The PoRep of a sector, accepted for exactly these commitments, ticket and seed. Makes the
    /// verifying key in `params_dir` when it is missing.
    ///
    /// # Errors
    /// [`ProofError::Params`]; also for sizes whose secrets nobody knows.
    pub fn of_porep(params_dir: &Path, input: &VerifyInput) -> Result<SimulatedProof, ProofError> {
        let set = Set { circuit: Circuit::Porep, proof: input.proof };
        SimulatedProof::of(params_dir, set, &library::public_inputs(input)?)
    }

    /// The winning PoSt of a vanilla proof, accepted for exactly this sector and randomness, which is
    /// a field element here. Makes the verifying key in `params_dir` when it is missing.
    ///
    /// # Errors
    /// As [`SimulatedProof::of_porep`]; [`ProofError::Library`] when the vanilla proof does not verify.
    pub(crate) fn of_winning_post(
        params_dir: &Path,
        proof: SealProof,
        sp: SpId,
        randomness: &[u8; 32],
        vanilla: &[u8],
    ) -> Result<SimulatedProof, ProofError> {
        let public = library::post::winning_public_inputs(proof, sp, randomness, vanilla)?;
        SimulatedProof::of(params_dir, Set { circuit: Circuit::WinningPost, proof }, &[public])
    }

    fn of(params_dir: &Path, set: Set, partitions: &[Vec<Scalar>]) -> Result<SimulatedProof, ProofError> {
        params::ensure_key(params_dir, set)?;
        let scalars = input_scalars(params_dir, set)?;
        let trapdoor = library::test_trapdoor();
        // Any randomness will do; this one makes equal proofs of equal input.
        let mut rng = XorShiftRng::seed_from_u64(0);
        let mut bytes = Vec::new();
        for public in partitions {
            let (r, s) = (Scalar::random(&mut rng), Scalar::random(&mut rng));
            let sum = public.iter().zip(&scalars[1..]).fold(scalars[0], |sum, (input, scalar)| sum + *input * scalar);
            let over_delta = trapdoor.delta.invert().expect("a random scalar is not zero");
            let c = (r * s - trapdoor.alpha * trapdoor.beta - sum) * over_delta;
            let proof = groth16::Proof::<Bls12> {
                a: (trapdoor.g1 * r).to_affine(),
                b: (trapdoor.g2 * s).to_affine(),
                c: (trapdoor.g1 * c).to_affine(),
            };
            proof.write(&mut bytes).map_err(ProofError::io("write a proof to", Path::new("memory")))?;
        }
        Ok(SimulatedProof(bytes))
    }

    /// As a real proof is passed on.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// What is remembered of the circuits whose proofs are simulated.
fn remembered(set: Set) -> Option<&'static OnceLock<Vec<Scalar>>> {
    static POREP: OnceLock<Vec<Scalar>> = OnceLock::new();
    static WINNING_POST: OnceLock<Vec<Scalar>> = OnceLock::new();
    match (set.proof, set.circuit) {
        (SealProof::StackedDrg2KiBV1_1, Circuit::Porep) => Some(&POREP),
        (SealProof::StackedDrg2KiBV1_1, Circuit::WinningPost) => Some(&WINNING_POST),
        // A real window PoSt takes three CPU-seconds, and so is never simulated.
        (SealProof::StackedDrg2KiBV1_1, Circuit::WindowPost)
        | (
            SealProof::StackedDrg8MiBV1_1
            | SealProof::StackedDrg512MiBV1_1
            | SealProof::StackedDrg32GiBV1_1
            | SealProof::StackedDrg64GiBV1_1,
            _,
        ) => None,
    }
}

/// Scalars of the public inputs: three seconds to compute for PoRep, so they are kept beside the
/// verifying key, which tells whether they are right.
fn input_scalars(dir: &Path, set: Set) -> Result<&'static [Scalar], ProofError> {
    let Some(remembered) = remembered(set) else {
        let (circuit, bytes) = (set.circuit, set.proof.sector_size());
        let error = format!("the secrets of the {circuit:?} parameters for sectors of {bytes} bytes are not known");
        return Err(ParamsError::Circuit(error).into());
    };
    if let Some(scalars) = remembered.get() {
        return Ok(scalars);
    }
    let key_path = set.verifying_key().path(dir);
    let key = fs::read(&key_path).map_err(ProofError::io("read", &key_path))?;
    let key = groth16::VerifyingKey::<Bls12>::read(&key[..]).map_err(ProofError::io("read", &key_path))?;
    let path = crate::cache::with_suffix(&key_path, ".simulated");
    let kept = fs::read(&path).ok().map(|bytes| scalars_of(&bytes)).filter(|scalars| belong(scalars, &key));
    let scalars = match kept {
        Some(scalars) => scalars,
        None => {
            let scalars = library::evaluate(set, Keep::VerifyingKey, &mut |_, _| ())?.input_scalars();
            let bytes: Vec<u8> = scalars.iter().flat_map(Scalar::to_bytes_le).collect();
            // Only a shortcut for the next process; the rename keeps readers off half a file.
            let temporary = crate::cache::with_suffix(&path, &format!(".{}.tmp", std::process::id()));
            let _ = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
            scalars
        }
    };
    Ok(remembered.get_or_init(|| scalars))
}

fn scalars_of(bytes: &[u8]) -> Vec<Scalar> {
    let (chunks, _) = bytes.as_chunks::<32>();
    chunks.iter().filter_map(|bytes| Scalar::from_bytes_le(bytes).into_option()).collect()
}

fn belong(scalars: &[Scalar], key: &groth16::VerifyingKey<Bls12>) -> bool {
    let trapdoor = library::test_trapdoor();
    let over_gamma = trapdoor.gamma.invert().expect("a random scalar is not zero");
    let point = |scalar: &Scalar| (trapdoor.g1 * (*scalar * over_gamma)).to_affine();
    scalars.len() == key.ic.len() && scalars.iter().zip(&key.ic).all(|(scalar, ic)| point(scalar) == *ic)
}
