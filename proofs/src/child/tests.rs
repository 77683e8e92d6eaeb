//! The words on the wire, and how calls end.

use super::*;
use crate::{PostKind, SdrProgress};
use curio_core::{SealProof, SectorRef, SpId};

const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

fn answers(request: &str) -> (u8, Vec<Message>) {
    let mut out = Vec::new();
    let status = serve(&mut request.as_bytes(), &mut out);
    let text = String::from_utf8(out).unwrap();
    (status, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn a_call_tells_its_progress_then_its_result() {
    let cache = tempfile::tempdir().unwrap();
    let request = Request::Sdr {
        proof: PROOF,
        sector: SectorRef::new(SpId(1000), 5),
        ticket: [1; 32],
        comm_d: crate::zero_comm_d(PROOF),
        cache: cache.path().to_owned(),
    };
    let (status, messages) = answers(&serde_json::to_string(&request).unwrap());
    let at =
        |layer, nodes_done| Message::Progress(Progress::Sdr(SdrProgress { layer, layers: 2, nodes_done, nodes: 64 }));
    assert_eq!(status, 0);
    assert_eq!(messages, [at(1, 0), at(1, 64), at(2, 0), at(2, 64), Message::Done(Response::Sdr)]);
}

#[test]
fn the_words_on_the_wire_stay_what_they_are() {
    let request = r#"{"call":"piece-commitment","path":"/does/not/exist","raw_size":127}"#;
    let expected = Request::PieceCommitment { path: "/does/not/exist".into(), raw_size: 127 };
    assert_eq!(serde_json::from_str::<Request>(request).unwrap(), expected);
    assert_eq!(serde_json::to_string(&expected).unwrap(), request);
    let failed = Message::Failed(CallError { message: "m".into(), retryable: true, reason: None });
    assert_eq!(serde_json::to_string(&failed).unwrap(), r#"{"failed":{"message":"m","retryable":true,"reason":null}}"#);
    let done = Message::Done(Response::TreeRc { comm_r: [0xab; 32] });
    let expected = format!(r#"{{"done":{{"tree-rc":{{"comm_r":"{}"}}}}}}"#, "ab".repeat(32));
    assert_eq!(serde_json::to_string(&done).unwrap(), expected);
}

#[test]
fn vanilla_proofs_travel_as_base64() {
    let told = [(Ok(vec![0xff; 3]), r#"{"Ok":"////"}"#), (Err("no".to_owned()), r#"{"Err":"no"}"#)];
    for (outcome, expected) in told {
        let message = Message::Progress(Progress::VanillaPost(VanillaPost { number: 7, outcome }));
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, format!(r#"{{"progress":{{"vanilla-post":{{"number":7,"outcome":{expected}}}}}}}"#));
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
    }
    let text = format!(
        r#"{{"call":"window-post","proof":5,"sp":1000,"randomness":"{}","vanilla":["////",""]}}"#,
        "09".repeat(32)
    );
    let vanilla = vec![vec![0xff; 3], vec![]];
    let request = Request::WindowPost { proof: PROOF, sp: SpId(1000), randomness: [9; 32], vanilla };
    assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    assert!(serde_json::from_str::<Request>(&text.replace("////", "///")).is_err());
}

#[test]
fn no_sectors_are_no_work() {
    let (kind, sectors) = (PostKind::Window, Vec::new());
    let request = Request::VanillaPosts { kind, proof: PROOF, sp: SpId(1000), sectors, parallel: 0 };
    let (status, messages) = answers(&serde_json::to_string(&request).unwrap());
    assert_eq!((status, messages), (0, vec![Message::Done(Response::VanillaPosts)]));
}

#[test]
fn a_failed_call_says_why_and_whether_to_try_again() {
    let failure = |request: &str| match answers(request) {
        (1, messages) => match &messages[..] {
            [Message::Failed(error)] => error.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let error = failure(r#"{"call":"piece-commitment","path":"/does/not/exist","raw_size":127}"#);
    assert_eq!(error.message, "failed to open piece file /does/not/exist: No such file or directory (os error 2)");
    assert!(error.retryable);

    let file = tempfile::NamedTempFile::new().unwrap();
    let request = Request::PieceCommitment { path: file.path().to_owned(), raw_size: 127 };
    let error = failure(&serde_json::to_string(&request).unwrap());
    assert!(error.message.contains("has 0 bytes instead of 127"), "{error}");
    assert_eq!(error.reason.as_deref(), Some("bad-pieces"));

    for request in ["", "{}", r#"{"call":"dance"}"#] {
        let error = failure(request);
        assert_eq!(error.reason.as_deref(), Some("bad-request"), "{error}");
    }
}

#[test]
fn a_panic_is_a_failed_attempt() {
    let request = Request::ClearCache { proof: PROOF, cache: "/".into() };
    let mut progress = |_| ();
    let ended = catch_unwind(AssertUnwindSafe(|| run_caught(request, &mut progress)));
    assert!(matches!(ended, Ok(Err(_))), "an ordinary error passes");
    let error = caught(catch_unwind(|| panic!("assertion of {}", "the library")).unwrap_err());
    assert_eq!(error.message, "the proof library panicked: assertion of the library");
    assert!(error.retryable);
}
