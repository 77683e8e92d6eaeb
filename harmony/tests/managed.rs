//! A database with a manager: who owns it, and which layers a program may write, on a real database.

mod support;

use curio_harmony::Db;
use curio_harmony::layers::{self, Applied};
use curio_harmony::owner::{self, Ownership};
use support::*;

const MANAGER: &str = "curiocluster/filecoin/curio";

async fn apply(db: &Db, config: &str, overwrite: bool) -> Applied {
    layers::apply(db, "seal", config, MANAGER, overwrite).await.expect("the database answers")
}

async fn text(db: &Db) -> String {
    layers::get(db, "seal").await.expect("the database answers").expect("the layer is there").config
}

async fn by_hand(db: &Db, config: &str) {
    layers::set(db, "seal", config).await.expect("the layer is written");
}

#[tokio::test]
async fn a_layer_is_written_once_and_then_unchanged() {
    let (_test, db) = database().await;
    let new = || layers::apply(&db, "pool.sealing", "a = 1\n", MANAGER, false);
    assert_eq!(new().await.expect("the database answers"), Applied::Written);
    let first = layers::get(&db, "pool.sealing").await.expect("the database answers").expect("the layer is there");
    assert_eq!(new().await.expect("the database answers"), Applied::Unchanged);
    let second = layers::get(&db, "pool.sealing").await.expect("the database answers").expect("the layer is there");
    assert_eq!(first, second);
    assert_eq!((first.config.as_str(), first.managed_by.as_deref()), ("a = 1\n", Some(MANAGER)));
}

#[tokio::test]
async fn a_layer_that_a_migration_made_is_taken_over() {
    let (_test, db) = database().await;
    for layer in layers::list(&db).await.expect("the database answers") {
        assert!(!layer.is_edited(), "{} is as the migration made it", layer.title);
    }
    assert_eq!(apply(&db, "a = 1\n", false).await, Applied::Written);
    assert_eq!(text(&db).await, "a = 1\n");
}

#[tokio::test]
async fn a_layer_of_another_manager_that_nobody_edited_is_taken_over() {
    let (_test, db) = database().await;
    layers::apply(&db, "seal", "a = 1\n", "curiocluster/old/curio", false).await.expect("the database answers");
    assert_eq!(apply(&db, "a = 2\n", false).await, Applied::Written);
}

#[tokio::test]
async fn what_a_person_wrote_stays_until_told_otherwise() {
    let (_test, db) = database().await;
    apply(&db, "a = 1\n", false).await;
    by_hand(&db, "a = 7\n").await;

    let found = Applied::EditedByHand { found: "a = 7\n".to_owned() };
    assert_eq!(apply(&db, "a = 2\n", false).await, found);
    assert_eq!(apply(&db, "a = 2\n", false).await, found, "it is said as long as it is so");
    assert_eq!(text(&db).await, "a = 7\n");

    assert_eq!(apply(&db, "a = 2\n", true).await, Applied::Written);
    assert_eq!(apply(&db, "a = 3\n", false).await, Applied::Written, "the edit is gone");
}

#[tokio::test]
async fn a_layer_that_a_person_made_is_not_written_and_one_with_the_same_text_is() {
    let (_test, db) = database().await;
    by_hand(&db, "a = 1\n").await;
    assert_eq!(apply(&db, "a = 2\n", false).await, Applied::EditedByHand { found: "a = 1\n".to_owned() });
    assert_eq!(apply(&db, "a = 1\n", false).await, Applied::Unchanged);
    assert_eq!(apply(&db, "a = 2\n", false).await, Applied::Written, "it is the manager's since");
}

#[tokio::test]
async fn an_edit_that_is_what_the_manager_wants_is_no_edit() {
    let (_test, db) = database().await;
    apply(&db, "a = 1\n", false).await;
    by_hand(&db, "a = 2\n").await;
    assert_eq!(apply(&db, "a = 2\n", false).await, Applied::Unchanged);
    assert!(!layers::get(&db, "seal").await.expect("the database answers").expect("the layer is there").is_edited());
}

#[tokio::test]
async fn one_manager_has_the_database_until_it_gives_it_up() {
    let (_test, db) = database().await;
    let claim = |uid: &'static str, name: &'static str| {
        let db = db.clone();
        async move { owner::claim(&db, uid, name).await.expect("the database answers") }
    };
    assert_eq!(claim("1", "filecoin/curio").await, Ownership::Ours);
    assert_eq!(claim("1", "filecoin/curio").await, Ownership::Ours);
    match claim("2", "test/curio").await {
        Ownership::Other(owner) => assert_eq!((owner.uid.as_str(), owner.name.as_str()), ("1", "filecoin/curio")),
        Ownership::Ours => panic!("two managers have it"),
    }
    assert!(!owner::release(&db, "2").await.expect("the database answers"));
    assert!(owner::release(&db, "1").await.expect("the database answers"));
    assert_eq!(claim("2", "test/curio").await, Ownership::Ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_managers_at_once_one_gets_the_database() {
    let (_test, db) = database().await;
    let claims = (0..8).map(|uid| {
        let db = db.clone();
        tokio::spawn(
            async move { owner::claim(&db, &uid.to_string(), "somebody").await.expect("the database answers") },
        )
    });
    let claims = futures::future::join_all(claims).await;
    let ours = claims.into_iter().filter(|claim| *claim.as_ref().expect("no panic") == Ownership::Ours).count();
    assert_eq!(ours, 1);
}
