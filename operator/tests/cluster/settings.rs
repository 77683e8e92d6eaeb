//! Where the cluster and what belongs to it are: told by `cargo xtask test`, by environment.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::process::Command;

pub struct Settings {
    kubeconfig: PathBuf,
    /// Folder with `kubectl`, `helm` and `helm4`.
    programs: PathBuf,
    /// `TOKEN:URL` of a chain that this machine and the pods reach under the same address.
    pub chain: String,
    /// The program `curio-devnet`.
    devnet: PathBuf,
    /// Helm's own files: nothing of a person's repositories and plugins may matter here.
    helm_home: tempfile::TempDir,
}

/// # Panics
/// When a variable is missing: a test that silently does nothing would be taken for a test that passed.
pub fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings {
        kubeconfig: variable("CURIO_TEST_KUBECONFIG").into(),
        programs: variable("CURIO_TEST_PROGRAMS").into(),
        chain: variable("CURIO_TEST_CHAIN"),
        devnet: variable("CURIO_TEST_DEVNET").into(),
        helm_home: tempfile::tempdir().expect("a temporary folder can be made"),
    })
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("these tests need a Kubernetes cluster ({name} is not set); run `cargo xtask test --section cluster`")
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    V3,
    V4,
}

impl Settings {
    pub async fn client(&self) -> kube::Client {
        // A second test finds it installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig).expect("the kubeconfig can be read");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .expect("the kubeconfig is one");
        kube::Client::try_from(config).expect("a client can be made of it")
    }

    pub fn kubectl(&self) -> Command {
        self.program("kubectl")
    }

    pub fn helm(&self, version: Helm) -> Command {
        self.program(match version {
            Helm::V3 => "helm",
            Helm::V4 => "helm4",
        })
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.helm_home.path());
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.helm_home.path().join(name).join(folder));
        }
        command
    }

    /// Creates a storage provider by a message on the chain, and returns its address.
    pub async fn create_miner(&self) -> String {
        let (token, url) = self.chain.split_once(':').expect("CURIO_TEST_CHAIN is TOKEN:URL");
        let mut command = Command::new(&self.devnet);
        command.args(["create-miner", "--url", url, "--token", token, "--sector-size", "2KiB"]);
        let said: serde_json::Value = serde_json::from_str(&run(&mut command).await).expect("it answers with JSON");
        said["miner"].as_str().expect("it names the miner").to_owned()
    }
}

pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/curio")
}

/// Runs a command to its end and returns what it said.
///
/// # Panics
/// When it fails, with its own words.
#[track_caller]
pub fn run(command: &mut Command) -> impl Future<Output = String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let shown = format!("{:?}", command.as_std());
    async move {
        let output = output.await.unwrap_or_else(|error| panic!("{shown} does not start: {error}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{shown} ended with {}: {}{said}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }
}
