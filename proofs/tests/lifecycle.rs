//! Sectors of 2 KiB through every step, with real vanilla proofs, simulated SNARKs and the real
//! verifier; the library's own phases are the oracle. The verifying key comes from the user's cache
//! and is made there when it is missing.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{PROOF, Sector, piece};
use curio_core::SealProof;
use curio_proofs::{
    C1Input, PieceError, PieceFile, ProofError, SdrInput, Snark, VerifyInput, c1, c2, check_c1, clear_cache, comm_d,
    layout, piece_commitment, replica_id, sdr, tree_d, tree_rc, unsealed_copy, verify_seal, zero_comm_d,
};
use filecoin_hashers::Domain;
use filecoin_hashers::poseidon::PoseidonDomain;
use filecoin_proofs::constants::SectorShapeBase;
use filecoin_proofs::{PaddedBytesAmount, PieceInfo, UnpaddedBytesAmount};
use filecoin_proofs_api::RegisteredSealProof;
use rstest::rstest;

#[rstest]
#[case::without_data(&[])]
#[case::one_small_piece(&[100])]
#[case::a_gap_between_two(&[508, 1016])]
#[case::a_full_sector(&[2032])]
fn a_sector_is_sealed_and_the_verifier_accepts_its_simulated_proof(#[case] raw_sizes: &[u64]) {
    let sector = Sector::new(raw_sizes);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();
    check_c1(&sector.c1_input(comm_r), &[5; 32]).unwrap();
    let seed = [6; 32];
    let vanilla = c1(&sector.c1_input(comm_r), &seed).unwrap();
    let porep = c2(sector.sector, &vanilla, Snark::Simulated).unwrap();

    let input = sector.verify_input(comm_r, seed);
    assert_eq!(porep.len(), 192);
    assert!(verify_seal(&input, &porep).unwrap());
    let mut other = comm_r;
    other[0] ^= 1;
    assert!(!verify_seal(&VerifyInput { comm_r: other, ..input }, &porep).unwrap(), "changed comm_r");
    assert!(!verify_seal(&VerifyInput { comm_d: other, ..input }, &porep).unwrap(), "changed comm_d");
    assert!(!verify_seal(&VerifyInput { seed: [7; 32], ..input }, &porep).unwrap(), "changed seed");
    assert!(!verify_seal(&VerifyInput { ticket: [7; 32], ..input }, &porep).unwrap(), "changed ticket");
    assert!(!verify_seal(&VerifyInput { comm_r: [0xff; 32], ..input }, &porep).unwrap(), "comm_r is no element");
    for bytes in [&porep[..191], &[], &[0x17; 192]] {
        assert!(!verify_seal(&input, bytes).unwrap(), "{} bytes that are no proof", bytes.len());
    }
}

#[test]
fn separate_steps_make_the_files_of_the_librarys_two_phases() {
    let sector = Sector::new(&[508, 1016]);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();

    let dir = tempfile::tempdir().unwrap();
    let (cache, staged, sealed) = (dir.path().join("cache"), dir.path().join("staged"), dir.path().join("sealed"));
    fs::create_dir(&cache).unwrap();
    fs::write(&staged, sector.padded_data()).unwrap();
    fs::write(&sealed, "").unwrap();
    let config = RegisteredSealProof::StackedDrg2KiBV1_1.as_v1_config();
    let pieces = sector.all_pieces().map(|(comm_p, size)| info(comm_p, size)).collect::<Vec<_>>();
    let phase1 = filecoin_proofs::seal_pre_commit_phase1::<_, _, _, SectorShapeBase>(
        &config,
        &cache,
        &staged,
        &sealed,
        common::prover_id(),
        sector.sector.number.into(),
        sector.ticket,
        &pieces,
    )
    .unwrap();
    let library = filecoin_proofs::seal_pre_commit_phase2(&config, phase1, &cache, &sealed).unwrap();

    assert_eq!(hex::encode(comm_r), hex::encode(library.comm_r));
    assert_eq!(hex::encode(sector.comm_d()), hex::encode(library.comm_d));
    assert_eq!(fs::read(sector.sealed()).unwrap(), fs::read(&sealed).unwrap(), "the replica");
    for name in names(&cache).iter().filter(|name| *name != "t_aux") {
        assert_eq!(fs::read(sector.cache().join(name)).unwrap(), fs::read(cache.join(name)).unwrap(), "{name}");
    }
}

#[rstest]
#[case::of_2_kib(SealProof::StackedDrg2KiBV1_1, RegisteredSealProof::StackedDrg2KiBV1_1)]
#[case::of_8_mib(SealProof::StackedDrg8MiBV1_1, RegisteredSealProof::StackedDrg8MiBV1_1)]
fn layers_are_the_librarys(#[case] proof: SealProof, #[case] registered: RegisteredSealProof) {
    common::use_own_parent_cache();
    let input = SdrInput { proof, sector: common::sector(9), ticket: [0x41; 32], comm_d: zero_comm_d(proof) };
    let (ours, librarys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sdr(&input, ours.path(), &mut |_| ControlFlow::Continue(())).unwrap();
    let id = PoseidonDomain::try_from_bytes(&replica_id(&input)).unwrap();
    filecoin_proofs::sdr::<_, SectorShapeBase>(&registered.as_v1_config(), librarys.path(), &id).unwrap();
    for layer in 1..=2 {
        let name = format!("sc-02-data-layer-{layer}.dat");
        let (ours, librarys) = (ours.path().join(&name), librarys.path().join(&name));
        assert!(fs::read(ours).unwrap() == fs::read(librarys).unwrap(), "{name} differs");
    }
}

#[test]
fn sdr_goes_on_after_the_layers_that_are_whole() {
    let sector = Sector::new(&[]);
    let made = |sector: &Sector| {
        let mut layers = Vec::new();
        let progress = &mut |at: curio_proofs::SdrProgress| {
            if at.nodes_done == 0 {
                layers.push(at.layer);
            }
            ControlFlow::Continue(())
        };
        sdr(&sector.sdr_input(), &sector.cache(), progress).unwrap();
        layers
    };
    let layer = |number: u32| sector.cache().join(format!("sc-02-data-layer-{number}.dat"));
    assert_eq!(made(&sector), [1, 2]);
    let whole = [fs::read(layer(1)).unwrap(), fs::read(layer(2)).unwrap()];
    assert_eq!(made(&sector), [] as [u32; 0], "nothing is left to do");

    fs::remove_file(layer(2)).unwrap();
    assert_eq!(made(&sector), [2], "the second layer is missing");
    fs::write(layer(1), &whole[0][..1000]).unwrap();
    fs::write(layer(2).with_extension("dat.tmp"), "half").unwrap();
    assert_eq!(made(&sector), [1], "the first layer is short");
    assert_eq!([fs::read(layer(1)).unwrap(), fs::read(layer(2)).unwrap()], whole);

    let other = SdrInput { ticket: [9; 32], ..sector.sdr_input() };
    sdr(&other, &sector.cache(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_ne!(fs::read(layer(1)).unwrap(), whole[0], "another ticket makes other layers");
}

#[test]
fn sdr_stops_when_asked_and_keeps_the_finished_layer() {
    let sector = Sector::new(&[]);
    let stopped = sdr(&sector.sdr_input(), &sector.cache(), &mut |at| {
        if at.layer == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(ProofError::Stopped)), "{stopped:?}");
    assert_eq!(names(&sector.cache()), ["sc-02-data-layer-1.dat", "sdr-replica-id"]);
}

#[test]
fn a_cache_in_use_is_refused() {
    let sector = Sector::new(&[]);
    let cache = sector.cache();
    let mut inner = None;
    let outer = sdr(&sector.sdr_input(), &cache, &mut |_| {
        inner.get_or_insert_with(|| sdr(&sector.sdr_input(), &cache, &mut |_| ControlFlow::Continue(())));
        ControlFlow::Continue(())
    });
    assert!(outer.is_ok(), "{outer:?}");
    assert!(matches!(inner, Some(Err(ProofError::Busy { .. }))), "{inner:?}");
}

#[test]
fn trees_are_made_anew_after_a_crash_at_any_point() {
    let sector = Sector::new(&[1016]);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();
    let cache = sector.cache();
    let state = || {
        let mut files: Vec<_> =
            names(&cache).into_iter().map(|name| (fs::read(cache.join(&name)).unwrap(), name)).collect();
        files.push((fs::read(sector.sealed()).unwrap(), "sealed".into()));
        files
    };
    let whole = state();
    type Damage = fn(&Path, &Path);
    let crashes: [(&str, Damage); 5] = [
        ("after success", |_, _| ()),
        ("while the data was copied", |_, sealed| {
            fs::remove_file(sealed).unwrap();
            fs::write(sealed.with_extension("tmp"), "half").unwrap();
        }),
        ("while tree-c was written", |cache, _| {
            fs::write(cache.join("sc-02-data-tree-c.dat"), [1; 64]).unwrap();
            fs::remove_file(cache.join("sc-02-data-tree-r-last.dat")).unwrap();
        }),
        ("while the replica was encoded", |cache, sealed| {
            fs::rename(sealed, sealed.with_extension("tmp")).unwrap();
            fs::write(cache.join("sc-02-data-tree-r-last.dat"), [2; 32]).unwrap();
        }),
        ("before the roots were written", |cache, sealed| {
            fs::remove_file(sealed).unwrap();
            fs::remove_file(cache.join("p_aux")).unwrap();
            fs::write(cache.join("t_aux"), "").unwrap();
        }),
    ];
    for (when, damage) in crashes {
        damage(&cache, &sector.sealed());
        assert_eq!(sector.tree_rc(), comm_r, "{when}");
        assert!(state() == whole, "files differ: {when}");
    }
    check_c1(&sector.c1_input(comm_r), &[8; 32]).unwrap();
}

#[test]
fn what_is_missing_is_named_with_the_task_that_makes_it() {
    let sector = Sector::new(&[]);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();
    let files = [
        ("cache/sc-02-data-layer-2.dat", "SDR"),
        ("cache/sc-02-data-tree-d.dat", "TreeD"),
        ("cache/sc-02-data-tree-c.dat", "TreeRC"),
        ("cache/p_aux", "TreeRC"),
        ("cache/t_aux", "TreeRC"),
        ("sealed", "TreeRC"),
    ];
    for (name, made_by) in files {
        let (path, aside) = (sector.dir.path().join(name), sector.dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        let error = c1(&sector.c1_input(comm_r), &[6; 32]).unwrap_err().to_string();
        let expected =
            format!("{} is missing; {made_by} writes it, let {made_by} of this sector run again", path.display());
        assert_eq!(error, expected);
        fs::rename(&aside, &path).unwrap();
    }
    fs::write(sector.sealed(), [0; 2000]).unwrap();
    let error = c1(&sector.c1_input(comm_r), &[6; 32]).unwrap_err().to_string();
    assert!(error.contains("has 2000 bytes instead of 2048"), "{error}");
    let error = tree_rc(PROOF, &[1; 32], &sector.cache(), &sector.sealed()).unwrap_err();
    assert!(matches!(error, ProofError::CommD { .. }), "{error}");
}

#[test]
fn a_damaged_layer_is_found_by_the_check_after_the_trees() {
    let sector = Sector::new(&[]);
    sector.make_layers_and_data();
    let layer = sector.cache().join("sc-02-data-layer-1.dat");
    let mut labels = fs::read(&layer).unwrap();
    // Every label changes, so that each challenge meets one.
    labels.iter_mut().step_by(32).for_each(|byte| *byte ^= 1);
    fs::write(&layer, labels).unwrap();
    let comm_r = sector.tree_rc();
    let error = check_c1(&sector.c1_input(comm_r), &[1; 32]).unwrap_err();
    assert!(matches!(error, ProofError::Library { .. }), "{error}");
}

#[test]
fn finalizing_keeps_what_proving_needs_and_the_data() {
    let sector = Sector::new(&[100, 1016]);
    sector.make_layers_and_data();
    sector.tree_rc();
    fs::write(sector.cache().join("sc-02-data-layer-2.dat.tmp"), "left over").unwrap();
    let unsealed = sector.dir.path().join("unsealed");

    unsealed_copy(PROOF, &sector.cache(), &unsealed).unwrap();
    clear_cache(PROOF, &sector.cache()).unwrap();
    assert_eq!(fs::read(&unsealed).unwrap(), sector.padded_data());
    assert_eq!(names(&sector.cache()), ["p_aux", "sc-02-data-tree-r-last.dat", "t_aux"]);

    // A second attempt after a crash finds all done.
    unsealed_copy(PROOF, &sector.cache(), &unsealed).unwrap();
    clear_cache(PROOF, &sector.cache()).unwrap();
    assert_eq!(fs::read(&unsealed).unwrap(), sector.padded_data());
    fs::remove_file(&unsealed).unwrap();
    let error = unsealed_copy(PROOF, &sector.cache(), &unsealed).unwrap_err();
    assert!(matches!(error, ProofError::Missing { made_by: "TreeD", .. }), "{error}");
}

#[test]
fn nothing_is_cleared_while_the_trees_are_not_made() {
    let sector = Sector::new(&[]);
    sector.make_layers_and_data();
    let before = names(&sector.cache());
    let error = clear_cache(PROOF, &sector.cache()).unwrap_err();
    assert!(matches!(error, ProofError::Missing { made_by: "TreeRC", .. }), "{error}");
    assert_eq!(names(&sector.cache()), before);
}

#[test]
fn pieces_that_are_not_what_they_were_leave_no_data_tree() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let path = dir.path().join("piece");
    fs::write(&path, [3; 1016]).unwrap();
    let file = |raw_size, padded_size| PieceFile { path: path.clone(), raw_size, padded_size };
    let wrong_data = tree_d(PROOF, &[file(1016, 1024)], &zero_comm_d(PROOF), &cache).unwrap_err();
    assert!(matches!(wrong_data, ProofError::CommD { .. }), "{wrong_data}");
    let cases = [
        (vec![file(1000, 1024)], "has 1016 bytes instead of 1000"),
        (vec![file(1016, 1000)], "padded size of 1000 bytes; it must be a power of two"),
        (vec![file(1016, 512)], "a piece of 1016 bytes does not fit its padded size of 512 bytes"),
        (vec![file(1016, 4096)], "the pieces need 4096 bytes"),
        (vec![file(1016, 1024); 3], "the pieces need 3072 bytes"),
        (vec![file(0, 128)], "a piece is empty"),
    ];
    for (pieces, expected) in cases {
        let error = tree_d(PROOF, &pieces, &zero_comm_d(PROOF), &cache).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.permanent_reason().is_some(), "{error}");
    }
    let gone = PieceFile { path: dir.path().join("gone"), ..file(1016, 1024) };
    let error = tree_d(PROOF, &[gone], &zero_comm_d(PROOF), &cache).unwrap_err();
    assert!(error.to_string().starts_with("failed to open piece file"), "{error}");
    assert_eq!(names(&cache), [] as [&str; 0]);
}

#[test]
fn a_large_data_tree_is_the_librarys() {
    // More than one chunk, with a piece that does not fill its place and a gap after it.
    let proof = SealProof::StackedDrg8MiBV1_1;
    let dir = tempfile::tempdir().unwrap();
    let (file, spec) = piece(dir.path(), 3_000_000, 0);
    let (small, small_spec) = piece(dir.path(), 1000, 1);
    let expected = comm_d(proof, &[small_spec.clone(), spec.clone()]).unwrap();
    let librarys: Vec<_> = layout(proof, &[small_spec.padded_size, spec.padded_size])
        .unwrap()
        .into_iter()
        .map(|slot| match slot.piece {
            Some(index) => info([small_spec.comm_p, spec.comm_p][index], slot.padded_size),
            None => filecoin_proofs::pieces::zero_padding(PaddedBytesAmount(slot.padded_size).into()).unwrap(),
        })
        .collect();
    let size = filecoin_proofs::SectorSize(proof.sector_size());
    assert_eq!(expected, filecoin_proofs::compute_comm_d(size, &librarys).unwrap());
    assert_eq!(tree_d(proof, &[small, file], &expected, dir.path()).unwrap(), expected);
}

#[rstest]
#[case(1)]
#[case(127)]
#[case(128)]
#[case(1016)]
#[case(1_500_000)]
fn a_piece_commitment_is_the_librarys(#[case] raw_size: u64) {
    let data = common::bytes(raw_size as usize, 7);
    let ours = piece_commitment(&mut &data[..], raw_size).unwrap();
    let unpadded = UnpaddedBytesAmount::from(PaddedBytesAmount(ours.padded_size));
    let mut filled = data.clone();
    filled.resize(u64::from(unpadded) as usize, 0);
    let librarys = filecoin_proofs::generate_piece_commitment(&filled[..], unpadded).unwrap();
    assert_eq!(ours.comm_p, librarys.commitment);

    for other in [raw_size - 1, raw_size + 1] {
        let error = piece_commitment(&mut &data[..], other);
        match error {
            Err(ProofError::Pieces(PieceError::RawSize { .. } | PieceError::Empty)) => {}
            _ => panic!("{other} bytes announced, {raw_size} sent: {error:?}"),
        }
    }
}

#[test]
fn c2_refuses_what_is_no_vanilla_proof() {
    for text in ["", "{}", "not json"] {
        let error = c2(common::sector(1), text.as_bytes(), Snark::Simulated).unwrap_err();
        assert!(matches!(error, ProofError::VanillaProof(_)), "{error}");
    }
}

#[test]
fn a_vanilla_proof_of_another_sector_does_not_become_a_proof_of_this_one() {
    let sector = Sector::new(&[]);
    sector.make_layers_and_data();
    let comm_r = sector.tree_rc();
    let other = C1Input { comm_r: [1; 32], ..sector.c1_input(comm_r) };
    let error = c1(&other, &[6; 32]).unwrap_err();
    assert!(matches!(error, ProofError::Library { .. }), "{error}");
}

/// Plays three processes: this test, a parent, and the parent's child. The child's end closes the
/// pipe that both write to.
#[test]
fn a_child_dies_with_its_parent() {
    const ROLE: &str = "CURIO_TEST_ROLE";
    let own = |role: String| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["a_child_dies_with_its_parent", "--exact", "--nocapture"]).env(ROLE, role);
        command
    };
    match std::env::var(ROLE).ok().as_deref() {
        None => {}
        Some("parent") => {
            let mut child = own(std::process::id().to_string()).spawn().unwrap();
            child.wait().unwrap();
            return;
        }
        Some(parent) => {
            assert!(!curio_proofs::child::die_with_parent(1 << 30), "that is not the parent");
            assert!(curio_proofs::child::die_with_parent(parent.parse().unwrap()));
            println!("alive");
            // Ends when the test ends, should the signal fail.
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            return;
        }
    }
    let mut parent = own("parent".into()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _stdin = parent.stdin.take().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("alive")), "the child has started");
    let (closed, both_closed) = mpsc::channel();
    std::thread::spawn(move || closed.send(lines.count()));
    parent.kill().unwrap();
    parent.wait().unwrap();
    both_closed.recv_timeout(Duration::from_secs(20)).expect("the child lives on");
}

fn info(comm_p: [u8; 32], padded_size: u64) -> PieceInfo {
    PieceInfo::new(comm_p, PaddedBytesAmount(padded_size).into()).unwrap()
}

/// Names of the files in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
