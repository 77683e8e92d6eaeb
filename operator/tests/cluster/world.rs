//! One scenario's part of the cluster: a namespace, a release of the chart, a database, a storage provider.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, resume_unwind};

use curio_harmony::Db;
use curio_harmony::testing::TestDb;
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::dump;
use crate::host::Pause;
use crate::settings::{Helm, chart, run, settings};
use crate::wait::{SEALED, SOON, until, until_gone};

/// Who applies the objects of these tests.
const MANAGER: &str = "cluster-tests";

pub struct World {
    pub namespace: String,
    pub client: Client,
}

/// Runs `body` in a namespace of its own, with an operator that watches only that. When it fails, what the namespace
/// held is printed before it goes.
pub async fn scenario(name: &str, body: impl AsyncFnOnce(&World)) {
    bare(name, async |world| {
        world.install(&[]).await;
        body(world).await;
        world.remove_objects().await;
    })
    .await;
}

/// The same without an operator.
pub async fn bare(name: &str, body: impl AsyncFnOnce(&World)) {
    let world = World { namespace: format!("t-{name}"), client: settings().client().await };
    let outcome = AssertUnwindSafe(async {
        definitions(&world.client).await;
        world.make_namespace().await;
        body(&world).await;
    })
    .catch_unwind()
    .await;
    if outcome.is_err() {
        dump::namespace(&world.namespace).await;
    }
    world.end().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// Brings the custom resource definitions into the cluster, as a person does: by the first release of the chart.
async fn definitions(client: &Client) {
    static ONCE: OnceCell<()> = OnceCell::const_new();
    ONCE.get_or_init(|| async {
        let base = World::of_definitions(client);
        base.make_namespace().await;
        base.install_by(Helm::V3, &["--set=crds.install=true"]).await;
    })
    .await;
}

/// The three kinds as a client sees them that knows nothing of our types.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    CurioCluster,
    RunnerPool,
    SealingSector,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::SealingSector, Kind::RunnerPool, Kind::CurioCluster];

    fn resource(self) -> ApiResource {
        ApiResource::from_gvk(&GroupVersionKind::gvk("curio.filecoin.io", "v1alpha1", &format!("{self:?}")))
    }
}

/// A scenario's database and the CurioCluster that uses it. The database goes when this is dropped.
#[must_use]
pub struct Sealing {
    /// Before the database, which is dropped while nobody is connected.
    pub db: Db,
    _database: TestDb,
    pub miner: String,
}

impl World {
    /// That of the one release that brings the custom resource definitions.
    pub fn of_definitions(client: &Client) -> World {
        World { namespace: "t-definitions-release".to_owned(), client: client.clone() }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn objects(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    async fn make_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // One of an earlier run may still be going.
        if namespaces.get(&self.namespace).await.is_ok_and(|there| there.meta().deletion_timestamp.is_some()) {
            until_gone(&namespaces, &self.namespace, SOON).await;
        }
        let labels = [("pod-security.kubernetes.io/enforce", "restricted"), ("curio-test", "scenario")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(self.namespace.clone()),
                labels: Some(labels.into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        namespaces
            .patch(&self.namespace, &PatchParams::apply(MANAGER), &Patch::Apply(&namespace))
            .await
            .expect("a namespace can be made");
    }

    /// Installs the chart and waits for its operator.
    pub async fn install(&self, settings: &[&str]) {
        self.install_by(Helm::V3, &[&["--set=crds.install=false"], settings].concat()).await;
    }

    pub async fn install_by(&self, version: Helm, values: &[&str]) {
        let mut install = settings().helm(version);
        install.args(["upgrade", "--install", "curio"]).arg(chart()).args(["--namespace", &self.namespace]);
        install.args(["--set=images.tag=dev", "--wait", "--timeout=120s"]).args(values);
        run(&mut install).await;
        let is_there = |deployment: &Deployment| {
            deployment.status.as_ref().is_some_and(|status| status.available_replicas.unwrap_or(0) > 0)
        };
        until(&self.api(), &self.operator().await, SOON, "the operator is available", is_there).await;
    }

    pub async fn uninstall_by(&self, version: Helm) {
        let mut uninstall = settings().helm(version);
        uninstall.args(["uninstall", "curio", "--namespace", &self.namespace, "--wait", "--timeout=120s"]);
        run(&mut uninstall).await;
    }

    /// Name of the operator's Deployment, the only one of the namespace.
    pub async fn operator(&self) -> String {
        let deployments: Api<Deployment> = self.api();
        let found = deployments.list(&ListParams::default()).await.expect("deployments can be listed").items;
        assert_eq!(found.len(), 1, "the release has one deployment");
        found[0].name_any()
    }

    /// Applies an object of a kind as `kubectl apply --server-side` does.
    pub async fn apply(&self, kind: Kind, name: &str, spec: Value) -> DynamicObject {
        self.try_apply(kind, name, spec).await.unwrap_or_else(|error| panic!("{kind:?} {name} was refused: {error}"))
    }

    pub async fn try_apply(&self, kind: Kind, name: &str, spec: Value) -> kube::Result<DynamicObject> {
        let object = DynamicObject::new(name, &kind.resource()).data(json!({"spec": spec}));
        self.objects(kind).patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await
    }

    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}});
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = self.api();
        secrets
            .patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret))
            .await
            .expect("a secret can be made");
    }

    /// A CurioCluster `curio` over a database of its own, with a storage provider of its own, waited for.
    pub async fn sealing(&self) -> Sealing {
        let database = TestDb::empty().await;
        let miner = settings().create_miner().await;
        self.secret("curio-db", "url", database.url()).await;
        self.secret("chain", "FULLNODE_API_INFO", &settings().chain).await;
        self.apply(Kind::CurioCluster, "curio", curio_cluster(&miner)).await;
        let what = "the CurioCluster is ready";
        until(&self.objects(Kind::CurioCluster), "curio", SOON, what, |object| is_true(object, "SchemaMigrated")).await;
        Sealing { db: database.connect().await, _database: database, miner }
    }

    /// A pool `sealing` for everything but the SNARK.
    pub async fn sealing_pool(&self, more: Value) {
        self.apply(Kind::RunnerPool, "sealing", merged(sealing_pool(), more)).await;
    }

    /// A pool `prover` for the SNARK, without a GPU: there are two in the whole cluster.
    pub async fn prover_pool(&self, more: Value) {
        let spec = json!({
            "cluster": "curio", "profile": "custom", "tasks": [{"name": "PoRep", "max": 1}], "replicas": 1,
            "gracePeriodSeconds": 5, "env": [simulated()], "scratch": {"template": {"size": "64Mi"}},
        });
        self.apply(Kind::RunnerPool, "prover", merged(spec, more)).await;
    }

    pub async fn until_runners_ready(&self, pool: &str, count: i64) {
        let what = format!("{count} runners of pool {pool} are ready");
        let are_ready = |object: &DynamicObject| object.data["status"]["readyReplicas"].as_i64() == Some(count);
        until(&self.objects(Kind::RunnerPool), pool, SOON * 2, &what, are_ready).await;
    }

    /// Asks for sectors by a SealingSector.
    pub async fn ask(&self, name: &str, sealing: &Sealing, count: u32) {
        let spec = json!({"cluster": "curio", "miner": sealing.miner, "count": count});
        self.apply(Kind::SealingSector, name, spec).await;
    }

    pub async fn until_proven(&self, name: &str) {
        let sectors = self.objects(Kind::SealingSector);
        until(&sectors, name, SEALED, "the sector is proven", |object| is_true(object, "Proven")).await;
    }

    /// Removes the objects of our kinds while the operator is there to undo what is outside.
    pub async fn remove_objects(&self) {
        for kind in Kind::ALL {
            let objects = self.objects(kind);
            for object in objects.list(&ListParams::default()).await.expect("objects can be listed").items {
                let name = object.name_any();
                // The operator removes what it made by itself, so it may be quicker.
                let _ = objects.delete(&name, &DeleteParams::default()).await;
                until_gone(&objects, &name, SOON).await;
            }
        }
    }

    /// Removes the namespace with all in it. Objects of our kinds that are left have no operator any more.
    async fn end(&self) {
        let mut uninstall = settings().helm(Helm::V3);
        uninstall.args(["uninstall", "curio", "--ignore-not-found", "--wait", "--namespace", &self.namespace]);
        // A scenario that failed may have left anything; what matters was said before.
        let _ = uninstall.kill_on_drop(true).output().await;
        for kind in Kind::ALL {
            let objects = self.objects(kind);
            for object in objects.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                let free = json!({"metadata": {"finalizers": null}});
                // The object may go at this very moment.
                let _ = objects.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&free)).await;
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let with_all =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let _ = namespaces.delete(&self.namespace, &with_all).await;
    }
}

/// Environment variable of a debug build: SNARKs are made from the test parameters' known secrets.
pub fn simulated() -> Value {
    json!({"name": "CURIO_SIMULATED_SNARKS", "value": "true"})
}

/// Environment variable of a debug build: `task` is held when it is under way.
pub fn held_in(task: &str) -> Value {
    json!({"name": "CURIO_FAULT_PAUSE", "value": format!("{task}:{}", Pause::IN_POD)})
}

pub fn curio_cluster(miner: &str) -> Value {
    json!({
        "database": {"urlSecret": {"name": "curio-db"}},
        "chain": {"apiSecrets": [{"name": "chain"}]},
        "miners": [miner],
    })
}

pub fn sealing_pool() -> Value {
    json!({
        "cluster": "curio", "profile": "sealing", "replicas": 1, "gracePeriodSeconds": 5, "env": [simulated()],
        "scratch": {"template": {"size": "64Mi"}},
        "longTerm": [{"name": "store", "template": {"size": "64Mi"}}],
    })
}

/// `base` with the keys of `more` in place of its own.
pub fn merged(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

/// A condition of an object: status, reason, message.
pub fn condition(object: &DynamicObject, kind: &str) -> Option<(String, String, String)> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

pub fn is_true(object: &DynamicObject, kind: &str) -> bool {
    condition(object, kind).is_some_and(|(status, ..)| status == "True")
}
