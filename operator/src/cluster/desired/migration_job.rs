//! The Job that brings a database's schema to the version of a runner image.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, LocalObjectReference, PodSecurityContext,
    PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::metadata;
use crate::api::CurioCluster;
use crate::apply::labels;
use crate::cluster::observe::mark;

/// The user of our images.
const USER: i64 = 65532;
/// Attempts after the first. The program itself waits for a database that is away.
const RETRIES: i32 = 2;
/// A migration that takes longer hangs.
const LONGEST_SECONDS: i64 = 3600;

/// One name per image and database, so that each pair is migrated once.
pub fn migration_job_name(cluster: &str, image: &str, database_mark: &str) -> String {
    format!("{cluster}-migrate-{}", mark(&[image, database_mark]))
}

/// `curio migrate` of this image against the database of the cluster.
pub fn migration_job(cluster: &CurioCluster, image: &str, database_mark: &str) -> Job {
    let name = migration_job_name(&cluster.name_any(), image, database_mark);
    let labels = labels::with(labels::of_cluster(&cluster.name_any()), labels::COMPONENT, labels::MIGRATION);
    let metadata = ObjectMeta { labels: Some(labels.clone()), ..metadata(cluster, name) };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(pod(cluster, image)),
    };
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            active_deadline_seconds: Some(LONGEST_SECONDS),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn pod(cluster: &CurioCluster, image: &str) -> PodSpec {
    let images = &cluster.spec.images;
    let secrets: Vec<_> =
        images.pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() }).collect();
    PodSpec {
        // A failed pod stays, and with it its last words.
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(cluster, image)],
        volumes: Some(vec![Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn container(cluster: &CurioCluster, image: &str) -> Container {
    let url = EnvVarSource {
        secret_key_ref: Some(SecretKeySelector::from(&cluster.spec.database.url_secret)),
        ..EnvVarSource::default()
    };
    let quantities =
        |pairs: [(&str, &str); 2]| pairs.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
    Container {
        name: "migrate".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(cluster.spec.images.pull_policy.as_str().to_owned()),
        args: Some(vec!["migrate".to_owned()]),
        env: Some(vec![
            EnvVar { name: "CURIO_DB_URL".to_owned(), value_from: Some(url), ..EnvVar::default() },
            EnvVar { name: "CURIO_LOG_FORMAT".to_owned(), value: Some("json".to_owned()), value_from: None },
        ]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities([("cpu", "50m"), ("memory", "64Mi")])),
            limits: Some(quantities([("cpu", "1"), ("memory", "256Mi")])),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // Without this the condition of a failure could only say that there was one.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![VolumeMount {
            name: "tmp".to_owned(),
            mount_path: "/tmp".to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}
