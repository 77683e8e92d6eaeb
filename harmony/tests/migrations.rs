//! The schema: how it comes to be, and the rules that keep it fit for YugabyteDB.

mod support;

use std::path::Path;

use curio_harmony::testing::TestDb;
use curio_harmony::{MIGRATOR, MigrateError, SchemaError};
use support::sql;

#[tokio::test]
async fn migrations_run_once_even_when_two_start_together() {
    let test = TestDb::empty().await;
    let (one, two) = (test.connect().await, test.connect().await);

    let (first, second) = tokio::join!(one.migrate(), two.migrate());

    let (first, second) = (first.expect("migrated"), second.expect("migrated"));
    let all = MIGRATOR.iter().count();
    assert_eq!(first.applied.len() + second.applied.len(), all, "{first:?} {second:?}");
    assert_eq!(first.version, second.version);
    assert_eq!(test.db().check_schema().await, Ok(()));
    let again = test.db().migrate().await.expect("nothing to do");
    assert!(again.applied.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_database_without_schema_says_to_migrate() {
    let test = TestDb::empty().await;
    let error = test.db().check_schema().await.expect_err("there is nothing");
    assert_eq!(error, SchemaError::Missing);
    assert!(error.to_string().contains("run `curio migrate`"));
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let test = TestDb::new().await;
    sql(test.db(), "INSERT INTO migration (version, name, checksum) VALUES (9999, 'later', '')").await;
    assert!(matches!(test.db().check_schema().await, Err(SchemaError::New { found: 9999, .. })));
    assert!(matches!(test.db().migrate().await, Err(MigrateError::Schema(SchemaError::New { .. }))));
}

#[tokio::test]
async fn an_older_schema_is_named_and_brought_forward() {
    let test = TestDb::new().await;
    let newest = MIGRATOR.iter().map(|file| file.version).max().expect("files");
    sql(test.db(), "DELETE FROM migration WHERE version = (SELECT max(version) FROM migration)").await;
    let error = test.db().check_schema().await.expect_err("one is missing");
    assert!(matches!(error, SchemaError::Old { needed, .. } if needed == newest), "{error:?}");
}

#[tokio::test]
async fn a_shipped_file_that_was_edited_is_noticed() {
    let test = TestDb::new().await;
    sql(test.db(), "UPDATE migration SET checksum = 'x' WHERE version = 1").await;
    assert!(matches!(test.db().migrate().await, Err(MigrateError::Schema(SchemaError::Changed { version: 1 }))));
}

#[tokio::test]
async fn the_known_layers_are_there_from_the_start() {
    let test = TestDb::new().await;
    let layers = curio_harmony::layers::list(test.db()).await.expect("layers");
    let titles: Vec<_> = layers.iter().map(|layer| layer.title.as_str()).collect();
    assert_eq!(titles, ["base", "gui", "post", "sdr", "seal", "seal-gpu", "seal-snark", "storage"]);
    assert_eq!(layers[0].config, "");
}

#[tokio::test]
async fn layers_are_written_read_and_removed() {
    let test = TestDb::new().await;
    let db = test.db();
    curio_harmony::layers::set(db, "mine", "A = 1").await.expect("set");
    curio_harmony::layers::set(db, "mine", "A = 2").await.expect("set again");
    let layer = curio_harmony::layers::get(db, "mine").await.expect("get").expect("it is there");
    assert_eq!(layer.config, "A = 2");
    assert!(curio_harmony::layers::remove(db, "mine").await.expect("remove"));
    assert!(!curio_harmony::layers::remove(db, "mine").await.expect("remove"));
    assert_eq!(curio_harmony::layers::get(db, "mine").await.expect("get"), None);
}

#[tokio::test]
async fn every_table_is_explained_and_has_wide_ids() {
    let test = TestDb::new().await;
    let silent: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'curio' AND c.relkind = 'r' AND obj_description(c.oid) IS NULL
             AND c.relname NOT LIKE 'migration%' ORDER BY 1",
    )
    .fetch_all(test.db().pool())
    .await
    .expect("the catalogue");
    assert!(silent.is_empty(), "tables without COMMENT: {silent:?}");
    let narrow: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
         WHERE table_schema = 'curio' AND data_type IN ('integer', 'smallint')
             AND (column_name = 'id' OR column_name LIKE '%\\_id' OR column_name LIKE 'task\\_id%')
             AND table_name <> 'migration_lock' ORDER BY 1",
    )
    .fetch_all(test.db().pool())
    .await
    .expect("the catalogue");
    assert!(narrow.is_empty(), "ids of 32 bits: {narrow:?}");
}

#[tokio::test]
async fn the_hot_table_has_no_foreign_keys_and_two_indexes() {
    let test = TestDb::new().await;
    let keys: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_constraint
         WHERE contype = 'f' AND 'curio.harmony_task'::regclass IN (conrelid, confrelid)",
    )
    .fetch_one(test.db().pool())
    .await
    .expect("the catalogue");
    assert_eq!(keys, 0);
    let indexes: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_index WHERE indrelid = 'curio.harmony_task'::regclass")
            .fetch_one(test.db().pool())
            .await
            .expect("the catalogue");
    assert_eq!(indexes, 2);
}

/// What YugabyteDB cannot do, or does only when told to (performance of the first is the reason for two).
const FORBIDDEN: [(&str, &str); 22] = [
    ("ADVISORY", "advisory locks are optional there"),
    ("SERIAL", "serial columns; use bigint identity"),
    ("EXCLUDE USING", "exclusion constraints are missing"),
    ("DEFERRABLE", "deferrable constraints are limited to foreign keys"),
    ("INHERITS", "inheritance is missing"),
    ("USING GIST", "GiST is missing"),
    ("USING BRIN", "BRIN is missing"),
    ("USING SPGIST", "SP-GiST is missing"),
    ("GENERATED ALWAYS AS (", "stored generated columns are missing"),
    ("UNLOGGED", "unlogged tables are ordinary ones there"),
    ("TABLESPACE", "means something else there"),
    ("SET DATA TYPE", "rewrites the table"),
    ("ALTER COLUMN", "may rewrite the table; add a column and fill it in batches"),
    ("CLUSTER ", "rewrites the table"),
    ("VACUUM ", "has no meaning there, and cannot run in a transaction"),
    ("CREATE RULE", "rules are missing"),
    ("LISTEN ", "hints are optional there and belong into the program"),
    ("NOTIFY", "hints are optional there and belong into the program"),
    ("MERGE INTO", "came after PostgreSQL 15 in full"),
    ("CONCURRENTLY", "cannot run in a transaction"),
    ("LOCK TABLE", "table locks are optional there"),
    ("DROP TABLE", "old programs still read it; migrations run forward"),
];

#[test]
fn migrations_stay_within_the_subset_of_yugabytedb() {
    for (name, text) in files() {
        let plain = without_comments(&text).to_uppercase();
        for (word, why) in FORBIDDEN {
            assert!(!plain.contains(word), "{name} contains {word}: {why}");
        }
        let hot_key =
            plain.contains("REFERENCES CURIO.HARMONY_TASK ") || plain.contains("REFERENCES CURIO.HARMONY_TASK(");
        assert!(!hot_key, "{name} has a foreign key on the hot task table: every commit would lock its row");
        for line in plain.lines().map(str::trim) {
            let adds = line.contains("ADD COLUMN") && line.contains("DEFAULT");
            let volatile = ["NOW()", "RANDOM()", "GEN_RANDOM_UUID()", "CLOCK_TIMESTAMP()"];
            let rewrites = adds && volatile.iter().any(|call| line.contains(call));
            assert!(!rewrites, "{name} adds a column with a computed default, which rewrites the table: {line}");
        }
        assert!(!plain.contains("TIMESTAMP WITHOUT") && !plain.contains(" TIMESTAMP,"), "{name}: use timestamptz");
    }
}

#[test]
fn storage_settings_are_guarded_because_yugabytedb_has_none() {
    for (name, text) in files() {
        let plain = without_comments(&text);
        let guard = plain.find("NOT LIKE '%-YB-%'").unwrap_or(usize::MAX);
        for setting in ["fillfactor", "autovacuum_"] {
            let at = plain.find(setting).unwrap_or(usize::MAX);
            assert!(at == usize::MAX || at > guard, "{name} sets {setting} outside the guard");
        }
    }
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let versions: Vec<i64> = MIGRATOR.iter().map(|file| file.version).collect();
    let expected: Vec<i64> = (1..).take(versions.len()).collect();
    assert_eq!(versions, expected);
}

fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the migrations")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a text"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}
