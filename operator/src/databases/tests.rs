use std::pin::pin;
use std::time::Duration;

use curio_harmony::testing::TestDb;
use futures::StreamExt;

use super::{ClusterKey, Databases, NoUrl, Standing, Wanted};

/// A step that takes longer does not come.
const DEADLINE: Duration = Duration::from_secs(20);

fn key(name: &str) -> ClusterKey {
    ClusterKey::new("ns", name)
}

fn at(uid: &str, url: &str) -> Wanted {
    Wanted { uid: uid.to_owned(), url: Ok(url.to_owned()), take_from: None }
}

/// Waits until the standing has this reason.
async fn until(databases: &Databases, key: &ClusterKey, reason: &str) -> Standing {
    let mut changes = pin!(databases.changes());
    let wait = async {
        loop {
            let standing = databases.get(key);
            if standing.reason() == reason {
                return standing;
            }
            changes.next().await.expect("the databases live");
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(standing) => standing,
        Err(_) => panic!("waited for {reason}, is {:?}", databases.get(key)),
    }
}

#[tokio::test]
async fn a_second_cluster_is_told_whose_database_it_is_and_has_it_after_the_first() {
    let test = TestDb::new().await;
    let databases = Databases::default();
    databases.want(&key("first"), at("uid-1", test.url()));
    until(&databases, &key("first"), "Ok").await;

    databases.want(&key("second"), at("uid-2", test.url()));
    let standing = until(&databases, &key("second"), "InUse").await;
    assert!(standing.to_string().contains("ns/first"), "{standing}");
    assert_eq!(databases.ready().len(), 1);

    assert!(databases.release(&key("first")).await.expect("the database answers"));
    databases.forget(&key("first"));
    until(&databases, &key("second"), "Ok").await;
}

#[tokio::test]
async fn a_database_of_a_cluster_that_is_gone_is_taken_when_a_person_says_so() {
    let test = TestDb::new().await;
    let databases = Databases::default();
    databases.want(&key("lost"), at("uid-1", test.url()));
    until(&databases, &key("lost"), "Ok").await;
    databases.forget(&key("lost"));

    databases.want(&key("curio"), Wanted { take_from: Some("ns/other".to_owned()), ..at("uid-2", test.url()) });
    until(&databases, &key("curio"), "InUse").await;
    databases.want(&key("curio"), Wanted { take_from: Some("ns/lost".to_owned()), ..at("uid-2", test.url()) });
    until(&databases, &key("curio"), "Ok").await;
}

#[tokio::test]
async fn a_database_without_a_schema_is_ready_once_it_was_migrated() {
    let test = TestDb::empty().await;
    let databases = Databases::default();
    databases.want(&key("curio"), at("uid-1", test.url()));
    let standing = until(&databases, &key("curio"), "NotMigrated").await;
    assert!(standing.db().is_none(), "nobody may use it yet");

    test.db().migrate().await.expect("an empty database can be migrated");
    until(&databases, &key("curio"), "Ok").await;
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable_until_the_address_is_corrected() {
    let test = TestDb::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let databases = Databases::default();
    databases.want(&key("curio"), at("uid-1", &format!("postgres://me:hunter2@127.0.0.1:{port}/x")));
    let standing = until(&databases, &key("curio"), "Unreachable").await;
    assert!(!standing.to_string().contains("hunter2"), "{standing}");

    databases.want(&key("curio"), at("uid-1", test.url()));
    until(&databases, &key("curio"), "Ok").await;
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_said_at_once() {
    let databases = Databases::default();
    assert_eq!(databases.get(&key("curio")).reason(), "Connecting");
    let url = Err(NoUrl("there is no Secret curio-db".to_owned()));
    let missing = Wanted { uid: "uid-1".to_owned(), url, take_from: None };
    databases.want(&key("curio"), missing);
    assert_eq!(databases.get(&key("curio")).reason(), "SecretMissing");
    databases.want(&key("curio"), at("uid-1", "mysql://me@localhost/x"));
    until(&databases, &key("curio"), "InvalidUrl").await;
    databases.forget(&key("curio"));
    assert_eq!(databases.get(&key("curio")).reason(), "Connecting");
}
