//! Messages that do not land: their price is raised under the same nonce, and one whose nonce somebody else has used is
//! given up and asked for again. And which of them go out first, and by whom.

mod support {
    pub mod world;
}

use curio_chain::types::{Message, SignedMessage, TipSetKey};
use curio_chain::{Address, BigInt, Client, TokenAmount, address};
use curio_core::SectorRef;
use curio_core::config::{AddressSet, Config};
use curio_harmony::testing::TestDb;
use curio_runner::message::outbox::{self, SendStatus};
use curio_runner::message::payer::{self, PayerError};
use curio_runner::message::purpose::Purpose;
use support::world::{World, until};

/// The only message, once `is_wanted` holds for it.
async fn message(world: &World, what: &str, is_wanted: impl Fn(&SendStatus) -> bool) -> SendStatus {
    until(what, || async {
        let sends = outbox::list(&world.db).await.ok()?;
        sends.into_iter().next().filter(|send| is_wanted(send))
    })
    .await
}

/// All signed forms of a message, the first one first.
async fn forms(world: &World, send_id: i64) -> Vec<SignedMessage> {
    let forms: Vec<sqlx::types::Json<SignedMessage>> = sqlx::query_scalar(
        "SELECT signed_json FROM (
             SELECT 0 AS generation, signed_json FROM message_sends WHERE send_id = $1
             UNION ALL SELECT generation, signed_json FROM message_replacements WHERE send_id = $1
         ) forms ORDER BY generation",
    )
    .bind(send_id)
    .fetch_all(world.db.pool())
    .await
    .expect("the forms are read");
    forms.into_iter().map(|form| form.0).collect()
}

async fn start(world: &World) -> SectorRef {
    world.curio(&["seal", "start", "--actor", &world.sp.to_string(), "--now", "--count", "1"]).await;
    SectorRef::new(world.sp, 0)
}

/// More than any message here offers.
fn crowded() -> TokenAmount {
    TokenAmount::from_whole(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_land_is_sent_again_under_its_nonce_for_a_higher_price() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    world.devnet.hold_back_below(crowded());
    let sealing = world.runner("sealing", None).await;
    let sector = start(&world).await;

    let send = message(&world, "the message is replaced", |send| send.replacements > 0).await;
    world.devnet.hold_nothing_back();
    let landed = message(&world, "it lands", |send| send.exit_code.is_some()).await;

    assert_eq!((landed.send_id, landed.signed_cid, landed.exit_code), (send.send_id, send.signed_cid, Some(0)));
    let forms = forms(&world, send.send_id).await;
    for pair in forms.windows(2) {
        let (old, new) = (&pair[0].message, &pair[1].message);
        let unpriced = |message: &Message| Message {
            gas_premium: TokenAmount::default(),
            gas_fee_cap: TokenAmount::default(),
            ..message.clone()
        };
        assert_eq!(unpriced(old), unpriced(new), "only the price differs");
        assert!(new.gas_premium.atto() * BigInt::from(100) >= old.gas_premium.atto() * BigInt::from(125), "{forms:#?}");
        assert!(new.gas_fee_cap >= new.gas_premium);
    }
    assert_eq!(world.messages_on_chain(28).await, 1);
    let executed: (String, String) = sqlx::query_as(
        "SELECT executed_msg_cid, executed_msg_data ->> 'GasPremium' FROM message_waits WHERE executed_tsk_epoch IS NOT NULL",
    )
    .fetch_one(world.db.pool())
    .await
    .expect("the result is there");
    let form = forms.iter().find(|form| form.cid().to_string() == executed.0).expect("a form of ours was executed");
    assert_eq!(form.message.gas_premium.atto().to_string(), executed.1);
    assert!(forms[0].cid().to_string() != executed.0, "the first form never landed");
    until("the sector goes on", || async {
        world.column(sector, "after_precommit_msg_success").await.filter(|landed| landed == "true")
    })
    .await;
    let replaced = sealing.metric("curio_message_replaced_total").await;
    assert_eq!(replaced, Some((forms.len() - 1) as f64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runners_that_watch_one_message_replace_it_once_at_a_time() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    world.devnet.hold_back_below(crowded());
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    start(&world).await;

    let send = message(&world, "the message is replaced twice", |send| send.replacements >= 2).await;

    let epochs: Vec<i64> =
        sqlx::query_scalar("SELECT epoch FROM message_replacements WHERE send_id = $1 ORDER BY generation")
            .bind(send.send_id)
            .fetch_all(world.db.pool())
            .await
            .expect("the replacements are read");
    for pair in epochs.windows(2) {
        assert!(pair[1] - pair[0] >= 10, "the second runner waits for the first one's replacement: {epochs:?}");
    }
}

/// Takes the place of a message in the pool, as somebody else with the same key would.
async fn take_its_nonce(chain: &Client, message: &Message) {
    let other = Message {
        nonce: message.nonce,
        gas_limit: message.gas_limit,
        gas_premium: TokenAmount::from_atto(message.gas_premium.atto() * BigInt::from(2)),
        gas_fee_cap: TokenAmount::from_atto(message.gas_fee_cap.atto() * BigInt::from(4)),
        ..Message::new(message.from, Address::new_id(99), 0, TokenAmount::from_atto(1), Vec::new())
    };
    let signed = chain.wallet_sign_message(&other.from, &other).await.expect("the node has the key");
    chain.mpool_push(&signed).await.expect("the pool takes the higher price");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_nonce_somebody_else_has_used_is_given_up_and_asked_for_again() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    world.devnet.hold_back_below(crowded());
    let _sealing = world.runner("sealing", None).await;
    let sector = start(&world).await;
    let send = message(&world, "the message is sent", |send| send.sent == Some(true)).await;
    let signed = forms(&world, send.send_id).await.remove(0);

    take_its_nonce(&world.chain, &signed.message).await;
    world.devnet.hold_nothing_back();

    let given_up = message(&world, "it is given up", |send| send.sent == Some(false)).await;
    assert!(given_up.error.is_some_and(|error| error.contains("another message")), "the reason is kept");
    until("the next one lands", || async {
        world.column(sector, "after_precommit_msg_success").await.filter(|landed| landed == "true")
    })
    .await;
    assert_eq!(world.messages_on_chain(28).await, 1);
    assert_eq!(world.column(sector, "precommit_generation").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cannot_pay_the_highest_fee_sends_what_has_a_deadline_and_nothing_else() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let info = world.chain.state_miner_info(&address::id_address(world.sp), &TipSetKey::HEAD).await.expect("a miner");
    let worker = world.chain.state_account_key(&info.worker, &TipSetKey::HEAD).await.expect("the worker has a key");
    let set = AddressSet {
        miner_addresses: vec![world.sp.to_string()],
        post_control: vec![address::to_mainnet_text(&worker)],
        disable_owner_fallback: true,
        ..AddressSet::default()
    };
    let config = Config { addresses: vec![set], ..Config::default() };
    let more_than_there_is = TokenAmount::from_whole(10_000_000_000_i64);

    let by = |purpose| payer::choose(&world.chain, &config, world.sp, purpose, &more_than_there_is);

    assert_eq!(by(Purpose::WindowPost).await.expect("a key"), worker);
    let refused = by(Purpose::Commit).await;
    assert!(matches!(refused, Err(PayerError::Funds { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_has_a_deadline_goes_out_by_a_kind_of_its_own() {
    let database = TestDb::new().await;
    for purpose in Purpose::ALL {
        let (from, to) = (Address::new_id(100), Address::new_id(1000));
        let request = outbox::Request {
            key: format!("{purpose}/f01000/0"),
            purpose,
            message: Message::new(from, to, 5, TokenAmount::default(), Vec::new()),
            max_fee: TokenAmount::from_atto(9),
        };
        let ask = database.db().transaction("ask", move |tx| {
            let request = request.clone();
            Box::pin(async move { outbox::ask(tx, &request).await })
        });
        ask.await.expect("the database answers");
    }

    let kinds: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, s.send_reason FROM harmony_task t JOIN message_sends s ON s.send_task_id = t.id ORDER BY 1, 2",
    )
    .fetch_all(database.db().pool())
    .await
    .expect("the tasks are read");

    let expected = [
        ("SendMessage", "commit"),
        ("SendMessage", "extend"),
        ("SendMessage", "precommit"),
        ("SendMessage", "terminate"),
        ("SendPost", "faults"),
        ("SendPost", "recover"),
        ("SendPost", "wdpost"),
    ];
    assert_eq!(kinds, expected.map(|(kind, purpose)| (kind.to_owned(), purpose.to_owned())));
}
