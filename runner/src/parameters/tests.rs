//! What a machine says about its parameters, and which circuits it needs.

use super::*;

const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;
const POREP: Set = Set { circuit: Circuit::Porep, proof: PROOF };

fn without_source() -> Parameters {
    Parameters::new(PathBuf::from("/params"), None, vec![Circuit::Porep])
}

fn with_source() -> Parameters {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = Source::new("http://params:12400").expect("an address");
    Parameters::new(PathBuf::from("/params"), Some(source), vec![Circuit::Porep])
}

#[test]
fn nothing_is_ready_before_it_was_looked_at() {
    let parameters = without_source();
    assert!(!parameters.is_ready(Circuit::Porep, PROOF));
    parameters.set(POREP, Standing::Coming("being looked for".to_owned()));
    assert!(!parameters.is_ready(Circuit::Porep, PROOF));
    parameters.set(POREP, Standing::Ready);
    assert!(parameters.clone().is_ready(Circuit::Porep, PROOF), "clones share what is known");
}

#[test]
fn a_set_that_a_task_asks_for_is_wished_for_once() {
    let parameters = without_source();
    parameters.is_ready(Circuit::Porep, PROOF);
    parameters.is_ready(Circuit::Porep, PROOF);
    parameters.is_ready(Circuit::WindowPost, PROOF);
    assert_eq!(parameters.known().wished, BTreeSet::from([POREP]), "no set of a circuit that needs none here");
}

#[test]
fn only_proofs_that_are_made_here_with_parameters_need_a_circuit() {
    let all = Subsystems {
        enable_po_rep_proof: true,
        enable_window_post: true,
        enable_winning_post: true,
        ..Subsystems::default()
    };
    assert_eq!(circuits_needed(&all, Snark::Real), Circuit::ALL);
    assert_eq!(circuits_needed(&all, Snark::Simulated), [Circuit::WindowPost]);
    assert_eq!(circuits_needed(&Subsystems::default(), Snark::Real), []);
    let post = Subsystems { enable_window_post: true, ..Subsystems::default() };
    assert_eq!(circuits_needed(&post, Snark::Real), [Circuit::WindowPost]);
}

#[test]
fn proofs_made_without_parameters_are_always_ready() {
    let parameters =
        Parameters::new(PathBuf::from("/params"), None, circuits_needed(&Subsystems::default(), Snark::Real));
    assert!(!parameters.is_needed());
    assert!(parameters.is_ready(Circuit::Porep, PROOF));
}

#[test]
fn a_machine_says_what_is_missing_and_how_far_it_is() {
    let parameters = with_source();
    let receives = Step::Receives { have_bytes: 43 << 20, total_bytes: 100 << 20 };
    parameters.set(POREP, Standing::Coming(format!("{receives} from http://params:12400/")));
    let said = "PoRep of 2 KiB sectors: parameters 43 % of 100 MiB from http://params:12400/";
    assert_eq!(parameters.readiness(), Err(said.to_owned()));
    parameters.set(POREP, Standing::Ready);
    assert_eq!(parameters.readiness(), Ok("whole in /params".to_owned()));
    let window = Set { circuit: Circuit::WindowPost, proof: PROOF };
    parameters.set(window, Standing::Unusable("the disk is full".to_owned()));
    assert_eq!(parameters.readiness(), Err("window PoSt of 2 KiB sectors: the disk is full".to_owned()));
}

#[test]
fn with_a_source_nothing_is_ready_before_the_source_said_what_it_has() {
    assert!(without_source().readiness().is_ok());
    let parameters = with_source();
    assert_eq!(parameters.readiness(), Err("http://params:12400/ was not asked yet".to_owned()));
    parameters.known().listing = Listing::Silent("the parameter source does not answer".to_owned());
    assert_eq!(parameters.readiness(), Err("the parameter source does not answer".to_owned()));
    parameters.set(POREP, Standing::Ready);
    assert!(parameters.readiness().is_ok(), "what lies here is enough, whatever the source says");
    let parameters = with_source();
    parameters.known().listing = Listing::Known;
    assert!(parameters.readiness().is_ok());
}
