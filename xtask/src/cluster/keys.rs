//! Certificates and the kubeconfig files that hold them, made anew for every cluster by `openssl`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::layout::{API_SERVICE, API_URL, GATEWAY, Layout, NODES};
use crate::process;

/// The user that may do everything. The API server also shows this certificate to kubelets, and DNS and the volume
/// provisioner use it: they run beside the API server and hold nothing that it would not give them.
pub const ADMIN: &str = "admin";
pub const API_SERVER: &str = "apiserver";
pub const CONTROLLER_MANAGER: &str = "controller-manager";
pub const SCHEDULER: &str = "scheduler";
pub const PROXY: &str = "proxy";
/// The key that signs service-account tokens.
pub const SERVICE_ACCOUNTS: &str = "service-accounts";
pub const AUTHORITY: &str = "ca";

/// A certificate to make. Kubernetes reads the user from `CN` and the groups from `O`.
struct Identity {
    file: &'static str,
    subject: String,
    names: String,
}

impl Identity {
    fn user(file: &'static str, subject: &str) -> Identity {
        Identity { file, subject: subject.to_owned(), names: format!("DNS:{file}") }
    }
}

fn identities() -> Vec<Identity> {
    let mut all = vec![
        Identity {
            file: API_SERVER,
            subject: "/CN=kube-apiserver".to_owned(),
            names: format!(
                "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:{API_SERVICE},IP:{GATEWAY}"
            ),
        },
        Identity::user(ADMIN, "/O=system:masters/CN=admin"),
        Identity::user(CONTROLLER_MANAGER, "/CN=system:kube-controller-manager"),
        Identity::user(SCHEDULER, "/CN=system:kube-scheduler"),
        Identity::user(PROXY, "/CN=system:kube-proxy"),
    ];
    all.extend(NODES.map(|node| Identity {
        file: node.name,
        subject: format!("/O=system:nodes/CN=system:node:{}", node.name),
        names: format!("DNS:{},IP:{}", node.name, node.address),
    }));
    all
}

/// Makes the authority, every certificate, and a kubeconfig for every user.
///
/// # Errors
/// When `openssl` fails; its words are in the error.
pub fn make(layout: &Layout) -> Result<()> {
    let settings = layout.keys().join("authority.cnf");
    layout.write(&settings, &settings_of("curio test cluster", "basicConstraints = critical, CA:TRUE"))?;
    let mut authority = request(layout, AUTHORITY, "/CN=curio test cluster", &settings);
    process::capture("openssl", &mut authority)?;

    for identity in identities() {
        let settings = layout.keys().join(format!("{}.cnf", identity.file));
        let extensions = format!("subjectAltName = {}\nextendedKeyUsage = serverAuth, clientAuth", identity.names);
        layout.write(&settings, &settings_of(identity.file, &extensions))?;
        let mut leaf = request(layout, identity.file, &identity.subject, &settings);
        leaf.arg("-CA").arg(layout.certificate(AUTHORITY)).arg("-CAkey").arg(layout.key(AUTHORITY));
        process::capture("openssl", &mut leaf)?;
        if identity.file != API_SERVER {
            layout.write(&layout.kubeconfig(identity.file), &kubeconfig(layout, identity.file))?;
        }
    }

    let private = layout.key(SERVICE_ACCOUNTS);
    let mut key = Command::new("openssl");
    key.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]).arg(&private);
    process::capture("openssl", &mut key)?;
    let mut public = Command::new("openssl");
    public.args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(public_key(layout, SERVICE_ACCOUNTS));
    process::capture("openssl", &mut public).map(drop)
}

pub fn public_key(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout.keys().join(format!("{name}.pub"))
}

/// A self-signed certificate and its key; with `-CA` added, one that the authority signed.
fn request(layout: &Layout, file: &str, subject: &str, settings: &Path) -> Command {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365"])
        .args(["-subj", subject, "-extensions", "wanted", "-config"])
        .arg(settings)
        .arg("-keyout")
        .arg(layout.key(file))
        .arg("-out")
        .arg(layout.certificate(file));
    openssl
}

/// A file of our own, because the machine's openssl.cnf may say anything.
fn settings_of(name: &str, extensions: &str) -> String {
    format!("[req]\nprompt = no\ndistinguished_name = name\n[name]\nCN = {name}\n[wanted]\n{extensions}\n")
}

/// Written as JSON, which is YAML.
fn kubeconfig(layout: &Layout, user: &str) -> String {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "curio", "cluster": {
            "server": API_URL, "certificate-authority": layout.certificate(AUTHORITY),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate": layout.certificate(user), "client-key": layout.key(user),
        }}],
        "contexts": [{"name": "curio", "context": {"cluster": "curio", "user": user}}],
        "current-context": "curio",
    });
    format!("{text:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_members_of_the_group_that_the_node_authorizer_wants() {
        for node in NODES {
            let identity = identities().into_iter().find(|identity| identity.file == node.name).expect("every node");
            assert_eq!(identity.subject, format!("/O=system:nodes/CN=system:node:{}", node.name));
            assert!(identity.names.contains(node.address), "{}", identity.names);
        }
    }

    #[test]
    fn openssl_makes_certificates_that_the_authority_vouches_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::new(Some(&dir.path().join("s"))).expect("a good path");
        layout.claim().expect("an empty folder");
        make(&layout).expect("openssl is installed");
        for file in [API_SERVER, ADMIN, "node-2"] {
            let mut verify = Command::new("openssl");
            verify.arg("verify").arg("-CAfile").arg(layout.certificate(AUTHORITY)).arg(layout.certificate(file));
            process::capture("openssl verify", &mut verify).expect("the chain is whole");
        }
    }
}
