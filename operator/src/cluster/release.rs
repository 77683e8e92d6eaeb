//! The end of a CurioCluster: its database is given up, so that another one may have it. This always ends:
//! a database that is away is left as it is, and an event says how to take it later.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::Resource;

use super::observe::wanted_database;
use crate::api::CurioCluster;
use crate::apply::{ApplyError, labels};
use crate::context::Context;
use crate::databases::{ClusterKey, Databases, ReleaseError, Standing};

/// How long a database that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives the database up, or says in an event why not.
///
/// # Errors
/// The API server does not answer.
pub async fn release(context: &Context, cluster: &CurioCluster) -> Result<(), ApplyError> {
    let key = ClusterKey::of(cluster);
    context.databases.want(&key, wanted_database(context, cluster).await?);
    let why = match tokio::time::timeout(PATIENCE, give_up(&context.databases, &key)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(_) => context.databases.get(&key).to_string(),
    };
    let note = format!(
        "the database was left as it is and still names {key} as its owner: {why}; another CurioCluster takes it with \
         annotation {}={key}",
        labels::TAKE_DATABASE
    );
    context.events.warning(&cluster.object_ref(&()), "DatabaseNotReleased", note).await;
    Ok(())
}

/// Waits until the database can be given up, or can be seen not to be ours. The error is a sentence.
async fn give_up(databases: &Databases, key: &ClusterKey) -> Result<(), String> {
    // Before the first look: a change in between must not be missed.
    let mut changes = pin!(databases.changes());
    loop {
        match databases.get(key) {
            Standing::InUse { .. } | Standing::NotMigrated { empty: true, .. } => return Ok(()),
            Standing::SecretMissing(why) | Standing::InvalidUrl(why) => return Err(why),
            Standing::Ready(_) | Standing::NotMigrated { empty: false, .. } | Standing::SchemaUnfit(_) => {
                match databases.release(key).await {
                    Ok(_) => return Ok(()),
                    Err(error @ ReleaseError::Transaction(_)) => return Err(error.to_string()),
                    Err(ReleaseError::Away) => {}
                }
            }
            Standing::Unknown | Standing::Unreachable(_) => {}
        }
        if changes.next().await.is_none() {
            return Err("the operator ends".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use curio_harmony::owner::{self, Ownership};
    use curio_harmony::testing::TestDb;

    use super::*;
    use crate::databases::{NoUrl, Wanted};

    fn key() -> ClusterKey {
        ClusterKey::new("ns", "curio")
    }

    #[tokio::test]
    async fn a_database_is_given_up_as_soon_as_it_answers() {
        let test = TestDb::new().await;
        let databases = Databases::default();
        let wanted = Wanted { uid: "uid-1".to_owned(), url: Ok(test.url().to_owned()), take_from: None };
        databases.want(&key(), wanted);
        let given = tokio::time::timeout(PATIENCE, give_up(&databases, &key())).await.expect("within the bound");
        assert_eq!(given, Ok(()));
        databases.forget(&key());
        let next = owner::claim(test.db(), "uid-2", "ns/next").await.expect("the database answers");
        assert_eq!(next, Ownership::Ours);
    }

    #[tokio::test]
    async fn without_its_secret_a_cluster_ends_at_once_and_says_so() {
        let databases = Databases::default();
        let url = Err(NoUrl("there is no Secret 'curio-db'".to_owned()));
        databases.want(&key(), Wanted { uid: "uid-1".to_owned(), url, take_from: None });
        assert_eq!(give_up(&databases, &key()).await, Err("there is no Secret 'curio-db'".to_owned()));
    }
}
