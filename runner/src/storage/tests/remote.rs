//! `/remote` over loopback: fetching, breaking, forging, deleting, proving.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use curio_proofs::child::{self, Message};
use http_body_util::BodyExt;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::VanillaPorep;
use crate::storage::remote::BLOCK_BYTES;
use crate::storage::remote::client::{Peer, RemoteError};
use crate::storage::remote::token::{Scope, sign};

fn no_prover(cluster: &Cluster) -> Prover {
    fake_prover(cluster.dir.path(), "exit 1")
}

/// A machine with one path, one sector and its address.
struct Served {
    cluster: Cluster,
    machine: Storage,
    path: LocalPath,
    sector: SectorRef,
    address: String,
}

impl Served {
    async fn new() -> Served {
        let cluster = Cluster::new().await;
        let machine = cluster.machine("sealing-0");
        let path = cluster.attach(&machine, "fast", sealing()).await;
        let sector = cluster.finalized_sector(&machine, &path, 1).await;
        let address = cluster.serve(&machine, no_prover(&cluster)).await;
        Served { cluster, machine, path, sector, address }
    }

    fn peer(&self) -> Peer {
        self.peer_at(&self.address)
    }

    fn peer_at(&self, address: &str) -> Peer {
        Peer { machine: "sealing-0".into(), address: address.into(), storage_id: self.path.storage_id.clone() }
    }

    fn read_scope(&self, file: SectorFile) -> Scope {
        Scope::Read { path: self.path.storage_id.clone(), file, sector: self.sector }
    }

    fn delete_scope(&self, file: SectorFile) -> Scope {
        Scope::Delete { path: self.path.storage_id.clone(), file, sector: self.sector }
    }

    fn token(&self, scope: Scope) -> String {
        sign(&self.cluster.secret, "test", scope)
    }

    fn url(&self, file: &str) -> String {
        format!("http://{}/remote/{file}?path={}", self.address, self.path.storage_id)
    }

    async fn ask(&self, method: Method, url: String, token: Option<String>) -> (StatusCode, String) {
        let mut request = reqwest::Client::new().request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn fetch_from(&self, address: &str, file: SectorFile) -> (Result<u64, RemoteError>, PathBuf) {
        let temp = self.cluster.dir.path().join("fetched");
        let peers = [self.peer_at(address)];
        let asking = self.cluster.machine("store-0");
        let fetched = asking.remote().fetch(&peers, self.sector, file, &temp, &CancellationToken::new()).await;
        (fetched, temp)
    }

    /// Makes the sealed file three blocks long and declares it.
    async fn grow_sealed(&self) -> Vec<u8> {
        let size = 2 * BLOCK_BYTES + BLOCK_BYTES / 2;
        let content: Vec<u8> = (0..size).map(|at| (at / 1021 % 251) as u8).collect();
        fs::write(self.path.file(SectorFile::Sealed, self.sector), &content).unwrap();
        let settled = self.machine.settle(&self.path, self.sector, SectorFile::Sealed).await.unwrap();
        self.cluster.declare(&[settled]).await;
        content
    }
}

#[tokio::test]
async fn every_kind_of_file_arrives_whole() {
    let served = Served::new().await;
    let content = served.grow_sealed().await;
    let (fetched, temp) = served.fetch_from(&served.address, SectorFile::Sealed).await;
    assert_eq!(fetched.unwrap(), content.len() as u64);
    assert!(fs::read(&temp).unwrap() == content, "the bytes differ");
    fs::remove_file(&temp).unwrap();
    let (fetched, temp) = served.fetch_from(&served.address, SectorFile::Cache).await;
    assert_eq!(fetched.unwrap(), 396);
    for (name, content) in cache_files(served.sector) {
        assert_eq!(fs::read(temp.join(name)).unwrap(), content, "{name}");
    }
}

/// A fake network: a TCP relay that cuts its first connections after a number of answered bytes.
async fn cutting_relay(target: String, cuts: u32, after_bytes: u64) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (carried, cuts_left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(cuts)));
    let sum = carried.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, sum, cuts_left) = (target.clone(), sum.clone(), cuts_left.clone());
            tokio::spawn(async move {
                let limit = cuts_left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .map_or(u64::MAX, |_| after_bytes);
                let server = TcpStream::connect(&target).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let upstream = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut buffer, mut here) = (vec![0; 64 << 10], 0);
                while here < limit {
                    let Ok(count) = from_server.read(&mut buffer).await else { break };
                    if count == 0 || to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                    here += count as u64;
                    sum.fetch_add(count as u64, Ordering::SeqCst);
                }
                upstream.abort();
            });
        }
    });
    (address, carried)
}

#[tokio::test]
async fn a_broken_transfer_goes_on_from_the_byte_it_reached() {
    let served = Served::new().await;
    let content = served.grow_sealed().await;
    let cut_after = BLOCK_BYTES + BLOCK_BYTES / 2;
    let (relay, carried) = cutting_relay(served.address.clone(), 1, cut_after).await;
    let (fetched, temp) = served.fetch_from(&relay, SectorFile::Sealed).await;
    assert_eq!(fetched.unwrap(), content.len() as u64);
    assert!(fs::read(temp).unwrap() == content, "the bytes differ");
    let carried = carried.load(Ordering::SeqCst);
    let again = carried - content.len() as u64;
    assert!(again < BLOCK_BYTES, "{again} bytes came twice, more than the block that was cut");
}

/// The real routes, with the first `damaged` answers to GET changed in one byte on their way: a fake of a bad cable.
async fn damaging(served: &Served, damaged: u32) -> String {
    let left = Arc::new(AtomicU32::new(damaged));
    let damage = move |request: Request, next: Next| {
        let left = left.clone();
        async move {
            let answer = next.run(request).await;
            let hit = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if !hit {
                return answer;
            }
            let (parts, body) = answer.into_parts();
            let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Response::from_parts(parts, Body::from(bytes))
        }
    };
    let state = RemoteState { storage: served.machine.clone(), prover: no_prover(&served.cluster) };
    served.cluster.serve_with(&served.machine, router(state).layer(from_fn(damage))).await
}

#[tokio::test]
async fn a_damaged_block_is_asked_for_again() {
    let served = Served::new().await;
    let address = damaging(&served, 1).await;
    let (fetched, temp) = served.fetch_from(&address, SectorFile::Sealed).await;
    assert_eq!(fetched.unwrap(), 2048);
    assert_eq!(fs::read(temp).unwrap(), vec![4; 2048]);
}

#[tokio::test]
async fn bytes_that_stay_wrong_are_refused() {
    let served = Served::new().await;
    let address = damaging(&served, u32::MAX).await;
    let (fetched, temp) = served.fetch_from(&address, SectorFile::Sealed).await;
    let error = fetched.unwrap_err();
    assert!(matches!(error, RemoteError::Checksum { .. }), "{error}");
    assert_eq!(fs::read(temp).unwrap(), b"", "nothing unchecked was written");
}

#[tokio::test]
async fn without_a_token_of_this_cluster_nothing_is_learned() {
    let served = Served::new().await;
    let stranger = sign(&StorageSecret::generate(), "stranger", served.read_scope(SectorFile::Sealed));
    let addresses = [
        (Method::GET, served.url("sealed/s-t01000-1")),
        (Method::GET, served.url("sealed/s-t01000-99")),
        (Method::GET, served.url("nonsense/x")),
        (Method::GET, served.url("cache/s-t01000-1/p_aux")),
        (Method::DELETE, served.url("sealed/s-t01000-1")),
        (Method::GET, served.url(&format!("stat/{}", served.path.storage_id))),
        (Method::POST, served.url("vanilla/porep")),
    ];
    for (method, url) in addresses {
        for (token, expected) in [
            (None, "a bearer token is needed here\n"),
            (Some(stranger.clone()), "this token is not valid here: InvalidSignature\n"),
        ] {
            let (status, sentence) = served.ask(method.clone(), url.clone(), token).await;
            assert_eq!((status, sentence.as_str()), (StatusCode::UNAUTHORIZED, expected), "{method} {url}");
        }
    }
    assert_sector_is_on(&served.path, served.sector);
}

#[tokio::test]
async fn a_machine_without_a_secret_serves_nobody() {
    let served = Served::new().await;
    let options = StorageOptions { machine: "sealing-0".into(), secret: None, timing: StorageTiming::default() };
    let open = Storage::new(served.cluster.db().clone(), options);
    let address = served.cluster.serve(&open, no_prover(&served.cluster)).await;
    let url = format!("http://{address}/remote/sealed/s-t01000-1?path={}", served.path.storage_id);
    let (status, sentence) =
        served.ask(Method::GET, url, Some(served.token(served.read_scope(SectorFile::Sealed)))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(sentence.contains("has no storage secret"), "{sentence}");
    let error = open.remote().stat(&served.peer()).await.unwrap_err();
    assert!(matches!(error, RemoteError::NoSecret { .. }), "{error}");
}

#[tokio::test]
async fn a_token_for_reading_removes_nothing() {
    let served = Served::new().await;
    let table = [
        (Method::DELETE, "sealed/s-t01000-1", served.read_scope(SectorFile::Sealed)),
        (Method::DELETE, "sealed/s-t01000-1", served.delete_scope(SectorFile::Cache)),
        (Method::GET, "sealed/s-t01000-1", served.delete_scope(SectorFile::Sealed)),
        (Method::GET, "sealed/s-t01000-2", served.read_scope(SectorFile::Sealed)),
        (Method::GET, "unsealed/s-t01000-1", served.read_scope(SectorFile::Sealed)),
    ];
    for (method, file, scope) in table {
        let (status, sentence) = served.ask(method.clone(), served.url(file), Some(served.token(scope))).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {file}");
        assert_eq!(sentence, "this token is for something else\n");
    }
    assert_sector_is_on(&served.path, served.sector);
}

#[tokio::test]
async fn only_a_copy_that_is_marked_is_removed_and_only_once() {
    let served = Served::new().await;
    let token = served.token(served.delete_scope(SectorFile::Sealed));
    let url = served.url("sealed/s-t01000-1");
    let (status, sentence) = served.ask(Method::DELETE, url.clone(), Some(token.clone())).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(sentence.contains("is in use"), "{sentence}");
    sqlx::query("UPDATE sector_location SET removal_requested_at = now() WHERE sector_filetype = 2")
        .execute(served.cluster.db().pool())
        .await
        .unwrap();
    let (read, _) =
        served.ask(Method::GET, url.clone(), Some(served.token(served.read_scope(SectorFile::Sealed)))).await;
    assert_eq!(read, StatusCode::NOT_FOUND, "a copy that is going is not read");
    let (status, _) = served.ask(Method::DELETE, url.clone(), Some(token.clone())).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(!served.path.file(SectorFile::Sealed, served.sector).exists());
    // The file comes back, say by hand; the old token is used again.
    write_sector(&served.path, served.sector);
    let (status, _) = served.ask(Method::DELETE, url.clone(), Some(token.clone())).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    served
        .cluster
        .declare(&[served.machine.settle(&served.path, served.sector, SectorFile::Sealed).await.unwrap()])
        .await;
    let (status, _) = served.ask(Method::DELETE, url, Some(token)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_sector_is_on(&served.path, served.sector);
}

/// Sends a request line as it is: an HTTP client would tidy the address up.
async fn raw_get(address: &str, target: &[u8], token: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = b"GET ".to_vec();
    request.extend_from_slice(target);
    request.extend_from_slice(
        format!(
            " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nRange: bytes=0-99\r\nConnection: close\r\n\r\n"
        )
        .as_bytes(),
    );
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).parse().unwrap_or(0);
    (status, answer)
}

#[tokio::test]
async fn no_address_leads_out_of_the_sector_files() {
    let served = Served::new().await;
    let outside = served.cluster.dir.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, served.path.file(SectorFile::Sealed, sector(66))).unwrap();
    let declared = Declared {
        storage_id: served.path.storage_id.clone(),
        sector: sector(66),
        file: SectorFile::Sealed,
        size_bytes: 6,
    };
    served.cluster.declare(&[declared]).await;
    let id = served.path.storage_id.clone();
    let tokens = [
        served.token(served.read_scope(SectorFile::Sealed)),
        served.token(served.read_scope(SectorFile::Cache)),
        served.token(Scope::Read { path: id.clone(), file: SectorFile::Sealed, sector: sector(66) }),
    ];
    let targets: Vec<Vec<u8>> = [
        "/remote/sealed/../sectorstore.json",
        "/remote/sealed/..%2fsectorstore.json",
        "/remote/sealed/%2e%2e/sectorstore.json",
        "/remote/%2e%2e/sectorstore.json",
        "/remote/sealed/%2e%2e%2fsectorstore.json",
        "/remote/sealed/..%252fsectorstore.json",
        "/remote/sealed/..%5csectorstore.json",
        "/remote/sealed//etc/passwd",
        "/remote//etc/passwd",
        "/remote/sealed/%2fetc%2fpasswd",
        "/remote/sealed/s-t01000-1%00",
        "/remote/sealed/s-t01000-1%00.dat",
        "/remote/sealed/s-t01000-1/",
        "/remote/sealed/s-t01000-1/..",
        "/remote/sealed/s-t01000-1%2f..%2fs-t01000-2",
        "/remote/sealed/s-t01000-66",
        "/remote/sealed/s-t01000-0x1",
        "/remote/sealed/s-t01000--1",
        "/remote/sealed/s-t01000-+1",
        "/remote/sealed/s-t01000-99999999999999999999",
        "/remote/sealed/fetching",
        "/remote/cache/s-t01000-1/..",
        "/remote/cache/s-t01000-1/../../sectorstore.json",
        "/remote/cache/s-t01000-1/..%2f..%2fsectorstore.json",
        "/remote/cache/s-t01000-1/%2e%2e%2f%2e%2e%2fsealed%2fs-t01000-1",
        "/remote/cache/s-t01000-1/p_aux%00",
        "/remote/cache/s-t01000-1/.hidden",
        "/remote/cache/s-t01000-1/%c0%ae%c0%ae%2fp_aux",
        "/remote/unsealed\\..\\sectorstore.json",
        "/remote/sectorstore.json",
        "/remote/piece/s-t01000-1",
    ]
    .iter()
    .map(|target| format!("{target}?path={id}").into_bytes())
    .chain([
        format!("/remote/sealed/s-t01000-1?path=../{id}").into_bytes(),
        b"/remote/sealed/s-t01000-1?path=/etc".to_vec(),
        b"/remote/sealed/s-t01000-1?path=%00".to_vec(),
        b"/remote/sealed/s-t01000-1".to_vec(),
    ])
    .collect();
    for target in targets {
        for token in &tokens {
            let (status, answer) = raw_get(&served.address, &target, token).await;
            let shown = String::from_utf8_lossy(&target).into_owned();
            assert!((400..500).contains(&status), "{shown} was answered {status}");
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.contains("secret") && !answer.contains("CanSeal") && !answer.contains("root:"), "{shown}");
        }
    }
}

#[tokio::test]
async fn ranges_and_versions_are_kept() {
    let served = Served::new().await;
    let content = served.grow_sealed().await;
    let url = served.url("sealed/s-t01000-1");
    let token = served.token(served.read_scope(SectorFile::Sealed));
    let get = async |range: Option<&str>, etag: Option<&str>| {
        let mut request = reqwest::Client::new().get(&url).bearer_auth(&token);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        request.send().await.unwrap()
    };
    let part = get(Some("bytes=100-199"), None).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 100-199/{}", content.len()));
    let etag = part.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(part.bytes().await.unwrap(), content[100..200]);
    let beyond = get(Some(&format!("bytes={}-", content.len())), None).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], format!("bytes */{}", content.len()));
    let whole = get(None, None).await;
    assert_eq!(whole.status(), StatusCode::BAD_REQUEST);
    assert!(whole.text().await.unwrap().contains("ask for at most 8388608 at a time"));
    assert_eq!(get(Some("bytes=0-9"), Some(&etag)).await.status(), StatusCode::PARTIAL_CONTENT);
    fs::write(served.path.file(SectorFile::Sealed, served.sector), &content[..3000]).unwrap();
    assert_eq!(get(Some("bytes=0-9"), Some(&etag)).await.status(), StatusCode::PRECONDITION_FAILED);
    let whole = get(None, None).await;
    assert_eq!((whole.status(), whole.bytes().await.unwrap().len()), (StatusCode::OK, 3000));
}

#[tokio::test]
async fn a_path_tells_its_figures() {
    let served = Served::new().await;
    let stat = served.cluster.machine("snark-0").remote().stat(&served.peer()).await.unwrap();
    assert_eq!(stat.storage_id, served.path.storage_id);
    assert!(stat.capacity_bytes >= stat.fs_available_bytes && stat.fs_available_bytes > 0, "{stat:?}");
    let other = Peer { storage_id: "no-such-path".into(), ..served.peer() };
    let error = served.cluster.machine("snark-0").remote().stat(&other).await.unwrap_err();
    assert!(matches!(error, RemoteError::Refused { status: 404, .. }), "{error}");
}

#[tokio::test]
async fn a_machine_without_files_gets_the_vanilla_proof_from_one_that_has_them() {
    let cluster = Cluster::new().await;
    let (sealing_0, snark_0) = (cluster.machine("sealing-0"), cluster.machine("snark-0"));
    let path = cluster.attach(&sealing_0, "fast", sealing()).await;
    let sector = cluster.finalized_sector(&sealing_0, &path, 1).await;
    let done = Message::Done(child::Response::C1 { vanilla_proof: "{\"proof\":1}".into() });
    let line = serde_json::to_string(&done).unwrap();
    // Answers only when the request names the files of this path.
    let script = format!("grep -q '{}' && echo '{line}'", path.file(SectorFile::Sealed, sector).display());
    cluster.serve(&sealing_0, fake_prover(cluster.dir.path(), &script)).await;
    let request = VanillaPorep {
        sector,
        proof: PROOF,
        ticket: [1; 32],
        seed: [2; 32],
        comm_d: [3; 32],
        comm_r: [4; 32],
        pieces: Vec::new(),
    };
    let no_prover = no_prover(&cluster);
    let cancelled = CancellationToken::new();
    let proof = snark_0.vanilla_porep(&no_prover, &request, &cancelled).await.unwrap();
    assert_eq!(proof, "{\"proof\":1}");
    let local = fake_prover(cluster.dir.path(), &script);
    assert_eq!(sealing_0.vanilla_porep(&local, &request, &cancelled).await.unwrap(), "{\"proof\":1}");
    let absent = VanillaPorep { sector: super::sector(9), ..request };
    let failure = snark_0.vanilla_porep(&no_prover, &absent, &cancelled).await.unwrap_err();
    assert_eq!(failure.to_string(), "failed to find a running machine that reaches cache and sealed file of f01000:9");
}

#[tokio::test]
async fn a_vanilla_request_is_bounded_and_must_be_one() {
    let served = Served::new().await;
    let token = served.token(Scope::Vanilla { sector: served.sector });
    let post = async |body: Vec<u8>| {
        let url = format!("http://{}/remote/vanilla/porep", served.address);
        let answer = reqwest::Client::new().post(url).bearer_auth(&token).body(body).send().await.unwrap();
        answer.status()
    };
    assert_eq!(post(b"{}".to_vec()).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(vec![b' '; 2 << 20]).await, StatusCode::PAYLOAD_TOO_LARGE);
}
