//! Proofs of spacetime of sectors of 2 KiB: real ones for the window, and for an election once a real
//! one and else simulated ones; the real verifiers throughout. Parameters come from the user's cache
//! and are made there when they are missing, which takes seconds.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{PROOF, Sector};
use curio_core::SpId;
use curio_proofs::child::{Message, PostSector, Progress, Request, Response, VanillaPost, serve};
use curio_proofs::params::{self, Circuit, Set};
use curio_proofs::{
    Commitment, PostKind, ProofError, PublicSector, Snark, clear_cache, merge_window_posts, verify_window_post,
    verify_winning_post, window_challenges, window_post_partition, winning_challenges, winning_post,
};

const SP: SpId = SpId(1000);

/// Both highest bits are set, as in every fourth beacon entry.
const RANDOMNESS: [u8; 32] = [0xfe; 32];

const OTHER_RANDOMNESS: [u8; 32] = [0xfd; 32];

/// A sector as it lies in a provider's storage for years.
struct Stored {
    sector: Sector,
    comm_r: Commitment,
}

impl Stored {
    fn new(number: u64) -> Stored {
        let mut sector = Sector::new(&[]);
        sector.sector = common::sector(number);
        sector.make_layers_and_data();
        let comm_r = sector.tree_rc();
        clear_cache(PROOF, &sector.cache()).unwrap();
        Stored { sector, comm_r }
    }

    fn number(&self) -> u64 {
        self.sector.sector.number
    }

    fn public(&self) -> PublicSector {
        PublicSector { number: self.number(), comm_r: self.comm_r }
    }

    fn asked(&self, challenges: Vec<u64>) -> PostSector {
        let (cache, sealed) = (self.sector.cache(), self.sector.sealed());
        PostSector { number: self.number(), comm_r: self.comm_r, cache, sealed, challenges }
    }

    fn window_vanilla(&self) -> Vec<u8> {
        self.vanilla(PostKind::Window).unwrap()
    }

    fn vanilla(&self, kind: PostKind) -> Result<Vec<u8>, String> {
        vanilla(kind, &[self]).remove(&self.number()).unwrap()
    }
}

/// Vanilla proofs by a child's request and messages.
fn vanilla(kind: PostKind, sectors: &[&Stored]) -> BTreeMap<u64, Result<Vec<u8>, String>> {
    let numbers: Vec<u64> = sectors.iter().map(|stored| stored.number()).collect();
    let challenges = match kind {
        PostKind::Window => window_challenges(PROOF, SP, &RANDOMNESS, &numbers).unwrap(),
        PostKind::Winning => winning_challenges(PROOF, SP, &RANDOMNESS, &numbers).unwrap(),
    };
    let sectors = sectors.iter().map(|stored| stored.asked(challenges[&stored.number()].clone())).collect();
    let (progress, done) = call(&Request::VanillaPosts { kind, proof: PROOF, sp: SP, sectors, parallel: 2 });
    assert_eq!(done, Response::VanillaPosts);
    let told = progress.into_iter().map(|progress| match progress {
        Progress::VanillaPost(VanillaPost { number, outcome }) => (number, outcome),
        other => panic!("{other:?}"),
    });
    told.collect()
}

fn call(request: &Request) -> (Vec<Progress>, Response) {
    let mut out = Vec::new();
    let status = serve(&mut serde_json::to_vec(request).unwrap().as_slice(), &mut out);
    let mut progress = Vec::new();
    for line in String::from_utf8(out).unwrap().lines() {
        match serde_json::from_str(line).unwrap() {
            Message::Progress(told) => progress.push(told),
            Message::Done(response) if status == 0 => return (progress, response),
            other => panic!("status {status}: {other:?}"),
        }
    }
    panic!("there is no result");
}

fn ensure_params(circuit: Circuit) {
    params::ensure(&params::default_dir(), Set { circuit, proof: PROOF }, &mut |_| ()).unwrap();
}

#[test]
fn a_partition_is_proven_and_the_verifier_takes_its_proof_for_nothing_else() {
    ensure_params(Circuit::WindowPost);
    let (one, two) = (Stored::new(1), Stored::new(2));
    let outcomes = vanilla(PostKind::Window, &[&two, &one]);
    assert_eq!(outcomes.len(), 2);
    // The greater number first: a proof is made in the verifier's order, not in that of its input.
    let vanilla = outcomes.into_values().rev().collect::<Result<Vec<_>, _>>().unwrap();
    let (_, made) = call(&Request::WindowPost { proof: PROOF, sp: SP, randomness: RANDOMNESS, vanilla });
    let Response::WindowPost { post } = made else { panic!("{made:?}") };
    assert_eq!(post.len(), 192);

    let (one, two) = (one.public(), two.public());
    let verify =
        |randomness: &[u8; 32], sectors: &[_], post: &[u8]| verify_window_post(PROOF, SP, randomness, sectors, post);
    assert!(verify(&RANDOMNESS, &[one, two], &post).unwrap());
    assert!(verify(&RANDOMNESS, &[two, one], &post).unwrap(), "the order does not matter");
    assert!(!verify(&OTHER_RANDOMNESS, &[one, two], &post).unwrap(), "other randomness");
    let other = PublicSector { comm_r: one.comm_r, ..two };
    let unreal = PublicSector { comm_r: [0xff; 32], ..two };
    for (what, sectors) in [
        ("no sector", &[][..]),
        ("one sector", &[one]),
        ("a sector twice", &[one, one]),
        ("more sectors than proofs", &[one, two, PublicSector { number: 3, ..two }]),
        ("another sector", &[one, PublicSector { number: 3, ..two }]),
        ("another comm_r", &[one, other]),
        ("a comm_r that is no element", &[one, unreal]),
    ] {
        assert!(!verify(&RANDOMNESS, sectors, &post).unwrap(), "{what}");
    }
    for bytes in [&post[..191], &[], &[0x17; 192], &post.repeat(2)] {
        assert!(!verify(&RANDOMNESS, &[one, two], bytes).unwrap(), "{} bytes that are no proof", bytes.len());
    }
    let (randomness, sectors) = (RANDOMNESS, vec![one, two]);
    let request = Request::VerifyWindowPost { proof: PROOF, sp: SP, randomness, sectors, post };
    assert_eq!(call(&request).1, Response::Verify { valid: true });
}

#[test]
fn merged_partitions_hold_exactly_when_all_but_the_last_are_full_and_their_numbers_ascend() {
    ensure_params(Circuit::WindowPost);
    let stored: Vec<Stored> = (1..=5).map(Stored::new).collect();
    let partition = |numbers: &[u64]| {
        let sectors: Vec<&Stored> = numbers.iter().map(|number| &stored[*number as usize - 1]).collect();
        let vanilla: Vec<_> = sectors.iter().map(|sector| sector.window_vanilla()).collect();
        let post = window_post_partition(PROOF, SP, &RANDOMNESS, &vanilla).unwrap();
        (sectors.iter().map(|sector| sector.public()).collect::<Vec<_>>(), post)
    };
    let (low, high, rest) = (partition(&[1, 2]), partition(&[3, 4]), partition(&[5]));
    let (short, odd, even) = (partition(&[1]), partition(&[1, 3]), partition(&[2, 4]));
    for (what, holds, partitions) in [
        ("three partitions, the last not full", true, &[&low, &high, &rest][..]),
        ("two that are full", true, &[&low, &high]),
        ("numbers between which others are missing", true, &[&low, &rest]),
        ("one alone that is not full", true, &[&short]),
        ("the wrong order", false, &[&high, &low]),
        ("one that is not full before another", false, &[&short, &high]),
        ("numbers that overlap", false, &[&odd, &even]),
    ] {
        let sectors: Vec<_> = partitions.iter().flat_map(|(sectors, _)| sectors.clone()).collect();
        let posts: Vec<_> = partitions.iter().map(|(_, post)| post.clone()).collect();
        let merged = merge_window_posts(&posts);
        assert_eq!(verify_window_post(PROOF, SP, &RANDOMNESS, &sectors, &merged).unwrap(), holds, "{what}");
    }
}

#[test]
fn a_damaged_file_costs_one_sector_and_is_named() {
    let (damaged, whole) = (Stored::new(1), Stored::new(2));
    let dir = damaged.sector.dir.path();
    type Damage = fn(&Path);
    let missing: Damage = |path| fs::remove_file(path).unwrap();
    let truncated: Damage = |path| fs::write(path, &fs::read(path).unwrap()[..8]).unwrap();
    let flipped: Damage = |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[17] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let flipped_last: Damage = |path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // No field elements: the library panics.
    let all_ones: Damage = |path| fs::write(path, vec![0xff; fs::read(path).unwrap().len()]).unwrap();
    let (tree, aux) = ("cache/sc-02-data-tree-r-last.dat", "cache/p_aux");
    for (name, damage, says) in [
        ("sealed", missing, "sealed is missing; put it back from a copy"),
        ("sealed", truncated, "sealed has 8 bytes instead of 2048; put it back from a copy"),
        ("sealed", flipped, "sector f01000:1 cannot be proven"),
        ("sealed", flipped_last, "sector f01000:1 cannot be proven"),
        ("sealed", all_ones, "sector f01000:1 cannot be proven"),
        (tree, missing, "sc-02-data-tree-r-last.dat is missing"),
        (tree, truncated, "sc-02-data-tree-r-last.dat has 8 bytes instead of 32"),
        (tree, flipped, "sector f01000:1 cannot be proven"),
        (aux, missing, "p_aux is missing"),
        (aux, truncated, "p_aux has 8 bytes instead of 64"),
        (aux, flipped, "p_aux belongs to another replica"),
        (aux, flipped_last, "p_aux"),
    ] {
        let path = dir.join(name);
        let before = fs::read(&path).unwrap();
        damage(&path);
        let outcomes = vanilla(PostKind::Window, &[&damaged, &whole]);
        let error = outcomes[&1].as_ref().expect_err(name);
        assert!(error.contains(says), "{name}: {error}");
        assert!(outcomes[&2].is_ok(), "the other sector: {:?}", outcomes[&2]);
        fs::write(&path, before).unwrap();
    }
    damaged.vanilla(PostKind::Window).expect("it is healed");

    fs::write(damaged.sector.sealed(), fs::read(whole.sector.sealed()).unwrap()).unwrap();
    let error = damaged.vanilla(PostKind::Window).unwrap_err();
    assert!(error.contains("cannot be proven"), "the replica of another sector: {error}");
}

#[test]
fn what_is_no_set_of_vanilla_proofs_is_refused() {
    ensure_params(Circuit::WindowPost);
    let vanilla = Stored::new(1).window_vanilla();
    let refused = |vanilla: &[Vec<u8>]| window_post_partition(PROOF, SP, &RANDOMNESS, vanilla).unwrap_err();
    assert!(matches!(refused(&[]), ProofError::SectorCount { most: 2, actual: 0 }));
    let three = [vanilla.clone(), vanilla.clone(), vanilla.clone()];
    assert!(matches!(refused(&three), ProofError::SectorCount { most: 2, actual: 3 }));
    let twice = refused(&[vanilla.clone(), vanilla.clone()]).to_string();
    assert_eq!(twice, "failed to read the vanilla proofs: sector 1 is there twice; make them again");
    assert!(matches!(refused(&[vanilla[..7].to_vec()]), ProofError::VanillaPost(_)));
    assert!(matches!(refused(&[vanilla[..100].to_vec()]), ProofError::Library { .. }));
    let mut changed = vanilla;
    // In the middle are hashes of a path.
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let error = refused(&[changed]);
    assert!(matches!(error, ProofError::Library { .. }), "{error}");
}

#[test]
fn a_simulated_winning_proof_is_taken_for_its_sector_and_randomness_only() {
    let stored = Stored::new(3);
    let vanilla = stored.vanilla(PostKind::Winning).unwrap();
    let made = winning_post(PROOF, SP, &RANDOMNESS, std::slice::from_ref(&vanilla), Snark::Simulated).unwrap();
    let sector = stored.public();
    let verify = |randomness: &[u8; 32], sectors: &[_]| {
        let (sectors, post) = (sectors.to_vec(), made.clone());
        let request = Request::VerifyWinningPost { proof: PROOF, sp: SP, randomness: *randomness, sectors, post };
        call(&request).1 == Response::Verify { valid: true }
    };
    assert!(verify(&RANDOMNESS, &[sector]));
    assert!(!verify(&OTHER_RANDOMNESS, &[sector]), "other randomness");
    assert!(!verify(&RANDOMNESS, &[PublicSector { number: 4, ..sector }]), "another sector");
    let other = PublicSector { comm_r: Stored::new(4).comm_r, ..sector };
    assert!(!verify(&RANDOMNESS, &[other]), "another comm_r");
    assert!(!verify(&RANDOMNESS, &[]), "no sector");
    assert!(!verify(&RANDOMNESS, &[sector, sector]), "two sectors");
    assert!(!verify_winning_post(PROOF, SP, &RANDOMNESS, &[sector], &[0x17; 192]).unwrap(), "no proof");

    let error = winning_post(PROOF, SP, &OTHER_RANDOMNESS, &[vanilla], Snark::Simulated).unwrap_err();
    assert!(matches!(error, ProofError::Library { .. }), "the vanilla proof answers other challenges: {error}");
}

#[test]
fn a_real_winning_proof_is_made_and_verifies() {
    ensure_params(Circuit::WinningPost);
    let stored = Stored::new(3);
    let vanilla = vec![stored.vanilla(PostKind::Winning).unwrap()];
    let snark = Snark::Real;
    let (_, made) = call(&Request::WinningPost { proof: PROOF, sp: SP, randomness: RANDOMNESS, vanilla, snark });
    let Response::WinningPost { post } = made else { panic!("{made:?}") };
    let verify = |randomness| verify_winning_post(PROOF, SP, randomness, &[stored.public()], &post).unwrap();
    assert!(verify(&RANDOMNESS));
    assert!(!verify(&OTHER_RANDOMNESS), "other randomness");
}
