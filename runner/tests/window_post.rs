//! Window PoSt from the challenge to the chain: real sectors, real proofs, a real PostgreSQL, runner processes that share
//! nothing but that, and a chain that verifies every proof and disputes what does not hold.

#[path = "window/net.rs"]
mod net;
mod support {
    pub mod provider;
    pub mod world;
}

use curio_chain::message::method;
use curio_harmony::testing::TestDb;
use net::{
    POST, STORE, assert_holds, faults, file, go_to, proofs, proving_world, until_landed, until_outcome, until_proven,
    window,
};
use support::world::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runners_prove_the_partitions_of_a_deadline_and_send_them_in_one_message() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a", "a", "a"]).await;
    let (_a, _b) = (world.runner_with("a", POST, None).await, world.runner_with("b", POST, None).await);
    let window = window(&world).await;

    go_to(&world, window.challenge);
    let proofs = until_proven(&world, &window, 2).await;
    assert_eq!(proofs[0].proven, [0, 1]);
    assert_eq!(proofs[1].proven, [2, 3]);
    assert!(proofs.iter().all(|proof| proof.skipped.is_empty()), "{proofs:?}");
    assert_eq!(net::sent(&world, "wdpost").await, 0, "nothing is sent before the window is open");
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    until_outcome(&world, &window, "landed", 2).await;

    assert_eq!(world.messages_on_chain(method::SUBMIT_WINDOWED_POST).await, 1);
    assert_holds(&world, &window, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_miners_of_one_cluster_are_proven_each_in_its_own_window() {
    let database = TestDb::empty().await;
    let mut world = proving_world(database.url(), &["a", "a"]).await;
    let first = world.sp;
    // Its sectors have the same numbers.
    net::add_miner(&mut world, "a", 2).await;
    let miners = [first, world.sp];
    let _a = world.runner_with("a", POST, None).await;
    let mut windows = Vec::new();
    for sp in miners {
        world.sp = sp;
        windows.push((window(&world).await, sp));
    }
    windows.sort_by_key(|(window, _)| window.open);

    for (landed, (window, sp)) in (1..).zip(&windows) {
        world.sp = *sp;
        for epoch in [window.challenge, window.submit_from(4)] {
            // Proofs leave with a new head.
            go_to(&world, epoch.max(world.devnet.head().height + 1));
            assert_eq!(until_proven(&world, window, 1).await[0].proven, [0, 1], "of {sp}");
        }
        until_landed(&world, "wdpost", landed).await;
        until_outcome(&world, window, "landed", 1).await;
    }

    let over = windows[1].0.close + 4;
    go_to(&world, over.max(world.devnet.head().height));
    for sp in miners {
        world.sp = sp;
        assert_eq!(world.messages_on_chain(method::SUBMIT_WINDOWED_POST).await, 1, "messages of {sp}");
        assert_eq!(world.messages_on_chain(method::DISPUTE_WINDOWED_POST).await, 0, "disputes of {sp}");
        assert_eq!(faults(&world).await.0, Vec::<u64>::new(), "faulty sectors of {sp}");
    }
}

/// Overwrites a byte of each leaf.
fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("the file is there");
    bytes.iter_mut().step_by(32).for_each(|byte| *byte ^= 1);
    std::fs::write(path, bytes).expect("the file is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_sectors_are_left_out_and_recover_once_they_are_healed() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a"; 8]).await;
    let kept = world.path("kept");
    let sealed = |number| file(&world, "a", "sealed", number);
    let cache = |number| file(&world, "a", "cache", number);
    let _a = world.runner_with("a", POST, None).await;
    // One of each partition: truncated, flipped, sealed file gone, cache gone.
    std::fs::create_dir(&kept).expect("a folder");
    for number in [1, 3, 5] {
        std::fs::copy(sealed(number), kept.join(number.to_string())).expect("the file is kept");
    }
    std::fs::File::options().write(true).open(sealed(1)).and_then(|file| file.set_len(1024)).expect("it is truncated");
    flip(&sealed(3));
    std::fs::remove_file(sealed(5)).expect("it is removed");
    std::fs::rename(cache(7), kept.join("7")).expect("it is moved away");
    let first = window(&world).await;

    go_to(&world, first.open);
    let proofs = until_proven(&world, &first, 4).await;
    let found: Vec<(Vec<i64>, Vec<i64>)> = proofs.into_iter().map(|proof| (proof.proven, proof.skipped)).collect();
    assert_eq!(found, (0..4).map(|index| (vec![2 * index], vec![2 * index + 1])).collect::<Vec<_>>());
    go_to(&world, first.submit_from(4));
    // None is full, so none shares a message.
    until_landed(&world, "wdpost", 4).await;
    until_outcome(&world, &first, "landed", 4).await;
    for number in [1, 3, 5] {
        std::fs::copy(kept.join(number.to_string()), sealed(number)).expect("the file is healed");
    }
    std::fs::rename(kept.join("7"), cache(7)).expect("it is back");
    assert_holds(&world, &first, &[1, 3, 5, 7]).await;

    let second = window(&world).await;
    assert!(world.devnet.head().height < second.fault_cutoff, "there is time to declare");
    until_landed(&world, "recover", 1).await;
    assert_eq!(faults(&world).await, (vec![1, 3, 5, 7], vec![1, 3, 5, 7]));
    assert_eq!(world.messages_on_chain(method::DECLARE_FAULTS_RECOVERED).await, 1, "all partitions in one message");

    go_to(&world, second.challenge);
    let proofs = until_proven(&world, &second, 4).await;
    assert!(proofs.iter().all(|proof| proof.proven.len() == 2 && proof.skipped.is_empty()), "{proofs:?}");
    go_to(&world, second.submit_from(4));
    // All are full: three of them share a message, whose proof the chain checks at once.
    until_landed(&world, "wdpost", 6).await;
    until_outcome(&world, &second, "landed", 4).await;
    assert_holds(&world, &second, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sectors_of_a_machine_that_hangs_are_left_out_in_time() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "c", "a", "c"]).await;
    let _a = world.runner_with("a", POST, None).await;
    let hanging = world.runner_with("c", STORE, None).await;
    let window = window(&world).await;

    hanging.freeze();
    go_to(&world, window.open);
    let proofs = until_proven(&world, &window, 2).await;
    hanging.go_on();

    assert_eq!((&proofs[0].proven[..], &proofs[0].skipped[..]), (&[0][..], &[1][..]));
    assert_eq!((&proofs[1].proven[..], &proofs[1].skipped[..]), (&[2][..], &[3][..]));
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 2).await;
    assert_holds(&world, &window, &[1, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_comes_back_before_the_window_opens_costs_nothing() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "c"]).await;
    let _a = world.runner_with("a", POST, None).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    until("sector 1 was not readable", || async {
        let log = std::fs::read_to_string(world.path("a.log")).ok()?;
        log.contains("trying them again").then_some(())
    })
    .await;
    assert_eq!(proofs(&world, &window).await, []);

    let _c = world.runner_with("c", STORE, None).await;
    let proofs = until_proven(&world, &window, 1).await;

    assert_eq!(proofs[0].proven, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_whose_files_are_nowhere_is_declared_faulty_before_the_cutoff() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    // Sealed here, as the cluster remembers, and gone from the only path that had it.
    sqlx::query(
        "INSERT INTO sectors_meta (sp_id, sector_num, reg_seal_proof, ticket_epoch, ticket_value, orig_sealed_cid,
             orig_unsealed_cid, cur_sealed_cid, cur_unsealed_cid, msg_cid_commit, seed_epoch, is_cc)
         SELECT $1, number, 5, 0, '', '', '', '', '', 'bafy', 0, TRUE FROM unnest(ARRAY[0, 1]) AS number",
    )
    .bind(world.sp.0 as i64)
    .execute(world.db.pool())
    .await
    .expect("the sectors are remembered");
    std::fs::remove_file(file(&world, "a", "sealed", 1)).expect("it is removed");
    let window = window(&world).await;

    let _a = world.runner_with("a", POST, None).await;
    until_landed(&world, "faults", 1).await;

    assert!(world.devnet.head().height < window.fault_cutoff);
    assert_eq!(faults(&world).await, (vec![1], vec![]));
    go_to(&world, window.challenge);
    let proofs = until_proven(&world, &window, 1).await;
    assert_eq!((&proofs[0].proven[..], proofs[0].skipped.is_empty()), (&[0][..], true), "it is not even asked for");
}
