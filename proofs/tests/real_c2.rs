//! One real proof of replication, by a child's request and answer: parameters from the user's cache
//! (generated there once, two to four minutes), a minute for the SNARK. One file and one test, so
//! that it has memory and cores for itself.

mod common;

use std::fs::File;
use std::io::Read;

use common::{PROOF, Sector};
use curio_proofs::child::{Message, Request, Response, serve};
use curio_proofs::{Snark, VerifyInput, params, verify_seal};

const SET: params::Set = params::Set { circuit: params::Circuit::Porep, proof: PROOF };

/// Whole peak of the process, which is what a task must reserve.
const MAX_RSS_KIB: u64 = 3_500_000;

#[test]
fn a_real_proof_of_replication_is_made_and_verifies() {
    let dir = params::default_dir();
    let mut last = String::new();
    let mut progress = |at: params::ParamsProgress| {
        if at.phase != last {
            println!("{:>3.0} % {}", at.fraction * 100.0, at.phase);
            last = at.phase;
        }
    };
    params::ensure(&dir, SET, &mut progress).unwrap();
    assert_eq!(vk_of_params(&dir), std::fs::read(SET.verifying_key().path(&dir)).unwrap(), "one setup, one key");

    let sector = Sector::new(&[1016]);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();
    let seed = [6; 32];
    let vanilla_proof = call(&Request::C1 {
        proof: PROOF,
        sector: sector.sector,
        ticket: sector.ticket,
        seed,
        comm_d: sector.comm_d(),
        comm_r,
        pieces: sector.specs().to_vec(),
        cache: sector.cache(),
        sealed: sector.sealed(),
    });
    let Response::C1 { vanilla_proof } = vanilla_proof else { panic!("{vanilla_proof:?}") };
    let porep = call(&Request::C2 { sector: sector.sector, vanilla_proof, snark: Snark::Real });
    let Response::C2 { porep } = porep else { panic!("{porep:?}") };

    let input = sector.verify_input(comm_r, seed);
    assert!(verify_seal(&input, &porep).unwrap());
    assert!(!verify_seal(&VerifyInput { seed: [7; 32], ..input }, &porep).unwrap(), "another seed");
    let peak = peak_rss_kib();
    println!("peak memory {} MiB", peak / 1024);
    assert!(peak < MAX_RSS_KIB, "{peak} KiB");
}

fn call(request: &Request) -> Response {
    let mut out = Vec::new();
    let status = serve(&mut serde_json::to_vec(request).unwrap().as_slice(), &mut out);
    let text = String::from_utf8(out).unwrap();
    match serde_json::from_str(text.lines().last().unwrap()).unwrap() {
        Message::Done(response) if status == 0 => response,
        other => panic!("status {status}: {other:?}"),
    }
}

/// The verifying key with which the parameter file begins, as long as the file of its own.
fn vk_of_params(dir: &std::path::Path) -> Vec<u8> {
    let length = std::fs::metadata(SET.verifying_key().path(dir)).unwrap().len();
    let mut key = Vec::new();
    File::open(SET.params().path(dir)).unwrap().take(length).read_to_end(&mut key).unwrap();
    key
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
