//! Parts that more than one kind uses: references to Secrets, volumes, and schemas of embedded Kubernetes types.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::SecretKeySelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the object that every other reference of a kind means: a Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Key of a Secret that holds the database's URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSecret {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[serde(default = "DatabaseSecret::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl DatabaseSecret {
    fn default_key() -> String {
        "url".to_owned()
    }
}

/// Key of a Secret that holds address and token of a chain node, as Lotus writes them: `TOKEN:/ip4/.../tcp/1234/http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChainSecret {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[serde(default = "ChainSecret::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl ChainSecret {
    fn default_key() -> String {
        "FULLNODE_API_INFO".to_owned()
    }
}

/// Key of a Secret that holds what runners sign their requests for each other's files with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSecret {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[serde(default = "StorageSecret::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl StorageSecret {
    fn default_key() -> String {
        "secret".to_owned()
    }
}

/// The selector that an environment variable of a container takes.
macro_rules! secret_selector {
    ($($kind:ty),+) => {$(
        impl From<&$kind> for SecretKeySelector {
            fn from(secret: &$kind) -> SecretKeySelector {
                SecretKeySelector { name: secret.name.clone(), key: secret.key.clone(), optional: None }
            }
        }
    )+};
}

secret_selector!(DatabaseSecret, ChainSecret, StorageSecret);

/// Storage of a runner: a claim of its own made from a template, or one that exists already. Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.template) != has(self.existingClaim)", "name exactly one of template and existingClaim"))]
pub struct Volume {
    /// Each runner gets a claim of its own made from this; it is kept when the runner goes and found again when a
    /// runner of the same name comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ClaimTemplate>,
    /// Name of a PersistentVolumeClaim in the same namespace that all runners of the pool share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub existing_claim: Option<String>,
}

/// A long-term store of a runner, with its name. Exactly one of `template` and `existingClaim`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.template) != has(self.existingClaim)", "name exactly one of template and existingClaim"))]
pub struct NamedVolume {
    /// Name of the store: it is mounted at `/store/<name>`, and a claim made for it is called `<runner>-<name>`.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    #[x_kube(validation = (
        "!(self in ['scratch', 'parameters'])",
        "a store cannot be called scratch or parameters: the claims of those volumes have these names"
    ))]
    pub name: String,
    /// Each runner gets a claim of its own made from this; it is kept when the runner goes and found again when a
    /// runner of the same name comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ClaimTemplate>,
    /// Name of a PersistentVolumeClaim in the same namespace that all runners of the pool share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub existing_claim: Option<String>,
}

/// What a runner's own PersistentVolumeClaim is made from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    /// Storage class; absent means the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Size as Kubernetes writes it, such as `500Gi`. One 32 GiB sector in work needs about 500 GiB of scratch.
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub size: String,
    /// Access modes of the claim.
    #[serde(default = "ClaimTemplate::default_access_modes")]
    #[schemars(length(min = 1, max = 4))]
    pub access_modes: Vec<AccessMode>,
}

impl ClaimTemplate {
    fn default_access_modes() -> Vec<AccessMode> {
        vec![AccessMode::ReadWriteOnce]
    }
}

/// How many nodes and pods may mount a volume at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AccessMode {
    ReadWriteOnce,
    ReadOnlyMany,
    ReadWriteMany,
    ReadWriteOncePod,
}

impl AccessMode {
    pub fn as_str(self) -> &'static str {
        match self {
            AccessMode::ReadWriteOnce => "ReadWriteOnce",
            AccessMode::ReadOnlyMany => "ReadOnlyMany",
            AccessMode::ReadWriteMany => "ReadWriteMany",
            AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
        }
    }
}

/// A part of the configuration document: sections and keys as `docs/reference/configuration.md` lists them.
pub type ConfigObject = serde_json::Map<String, Value>;

/// Layers by name.
pub type Layers = BTreeMap<String, ConfigObject>;

/// Schema of a [`ConfigObject`]. The API server takes any keys; the operator checks them, because only it can say which
/// key was meant.
pub(crate) fn config_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Schema of [`Layers`].
pub(crate) fn layers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// Schema of a type of Kubernetes itself, without its texts: an Affinity alone brings 40 KiB of them, and
/// `kubectl explain pod.spec` has them all.
pub(crate) fn kubernetes<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    schema.remove("description");
    if let Some(object) = schema.as_object_mut() {
        object.values_mut().for_each(strip_descriptions);
    }
    schema
}

fn strip_descriptions(value: &mut Value) {
    match value {
        Value::Object(object) => {
            // A property that is itself called `description` has a schema, not a text.
            if object.get("description").is_some_and(Value::is_string) {
                object.remove("description");
            }
            object.values_mut().for_each(strip_descriptions);
        }
        Value::Array(values) => values.iter_mut().for_each(strip_descriptions),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
