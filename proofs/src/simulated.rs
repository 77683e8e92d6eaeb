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
use curio_core::SealProof;
use ff::Field;
use group::Curve;
use rand_08::SeedableRng;
use rand_xorshift::XorShiftRng;

use crate::groth16::Keep;
use crate::params::{self, ParamsError};
use crate::{ProofError, VerifyInput, library};

// A release build leaves the module out; this keeps it so when somebody changes the attribute.
const _: () = assert!(cfg!(debug_assertions), "simulated proofs must not reach a release build");

/// A proof that proves nothing and verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedPorep(Vec<u8>);

impl SimulatedPorep {
    /// The proof for a sector, accepted for exactly these commitments, ticket and seed. Makes the
    /// verifying key in `params_dir` when it is missing.
    ///
    /// # Errors
    /// [`ProofError::Params`]; also for sizes whose secrets nobody knows.
    pub fn of(params_dir: &Path, input: &VerifyInput) -> Result<SimulatedPorep, ProofError> {
        params::ensure_verifying_key(params_dir, input.proof)?;
        let scalars = input_scalars(params_dir, input.proof)?;
        let trapdoor = library::test_trapdoor();
        // Any randomness will do; this one makes equal proofs of equal input.
        let mut rng = XorShiftRng::seed_from_u64(input.sector.number);
        let mut bytes = Vec::new();
        for public in library::public_inputs(input)? {
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
        Ok(SimulatedPorep(bytes))
    }

    /// As a real proof is passed on.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Scalars of the public inputs: three seconds to compute, so they are kept beside the verifying key,
/// which tells whether they are right.
fn input_scalars(dir: &Path, proof: SealProof) -> Result<&'static [Scalar], ProofError> {
    static OF_2KIB: OnceLock<Vec<Scalar>> = OnceLock::new();
    if proof != SealProof::StackedDrg2KiBV1_1 {
        let error = format!("the secrets of the parameters for sectors of {} bytes are not known", proof.sector_size());
        return Err(ParamsError::Circuit(error).into());
    }
    if let Some(scalars) = OF_2KIB.get() {
        return Ok(scalars);
    }
    let key_path = params::verifying_key_path(dir, proof);
    let key = fs::read(&key_path).map_err(ProofError::io("read", &key_path))?;
    let key = groth16::VerifyingKey::<Bls12>::read(&key[..]).map_err(ProofError::io("read", &key_path))?;
    let path = crate::cache::with_suffix(&key_path, ".simulated");
    let kept = fs::read(&path).ok().map(|bytes| scalars_of(&bytes)).filter(|scalars| belong(scalars, &key));
    let scalars = match kept {
        Some(scalars) => scalars,
        None => {
            let scalars = library::evaluate_porep(proof, Keep::VerifyingKey, &mut |_, _| ())?.input_scalars();
            let bytes: Vec<u8> = scalars.iter().flat_map(Scalar::to_bytes_le).collect();
            // Only a shortcut for the next process; the rename keeps readers off half a file.
            let temporary = crate::cache::with_suffix(&path, &format!(".{}.tmp", std::process::id()));
            let _ = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
            scalars
        }
    };
    Ok(OF_2KIB.get_or_init(|| scalars))
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
