//! Objects that break a rule of their schema are refused by the server, in the rule's words. That every rule has one,
//! `tests/rules.rs` sees to.

use std::fs;
use std::path::{Path, PathBuf};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use serde_json::Value;

use crate::wait::{SOON, until_gone};
use crate::world::{World, bare};

/// A file of `bad/`: objects that are accepted, then one that is not.
struct Bad {
    file: PathBuf,
    /// The message of the rule.
    refused: String,
    objects: Vec<Value>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_of_the_schemas_refuses_an_object_in_its_own_words() {
    bare("refused", async |world| {
        let all = bad();
        for bad in &all {
            let (last, before) = bad.objects.split_last().expect("a file has an object");
            for object in before {
                apply(world, object).await.unwrap_or_else(|error| panic!("{}: {error}", bad.file.display()));
            }
            let Err(error) = apply(world, last).await else { panic!("{} was accepted", bad.file.display()) };
            let kube::Error::Api(answer) = &error else { panic!("{}: {error}", bad.file.display()) };
            assert_eq!(answer.code, 422, "{}: {answer:?}", bad.file.display());
            assert!(answer.message.contains(&bad.refused), "{}: {}", bad.file.display(), answer.message);
            // Files use the same names.
            for object in before {
                remove(world, object).await;
            }
        }
        println!("{} bad objects were refused", all.len());
    })
    .await;
}

async fn apply(world: &World, object: &Value) -> kube::Result<DynamicObject> {
    let (objects, name) = place(world, object);
    objects.patch(&name, &PatchParams::apply("cluster-tests").force(), &Patch::Apply(object)).await
}

async fn remove(world: &World, object: &Value) {
    let (objects, name) = place(world, object);
    objects.delete(&name, &DeleteParams::default()).await.expect("it may be deleted");
    until_gone(&objects, &name, SOON).await;
}

fn place(world: &World, object: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = object["apiVersion"].as_str().and_then(|name| name.split_once('/')).expect("GROUP/VERSION");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(&object["kind"])));
    let objects = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    (objects, text(&object["metadata"]["name"]))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/bad")
}

fn bad() -> Vec<Bad> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).expect("the folder is there").flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there is no bad object");
    files.into_iter().map(read).collect()
}

fn read(file: PathBuf) -> Bad {
    let text = fs::read_to_string(&file).expect("a file can be read");
    let refused = text.lines().next().and_then(|line| line.strip_prefix("# refused: "));
    let refused = refused.unwrap_or_else(|| panic!("{} does not begin with `# refused: `", file.display())).to_owned();
    let objects = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
        .collect();
    Bad { file, refused, objects }
}
