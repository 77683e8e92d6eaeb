//! Programs that come from the distribution: found, or installed when this program is root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{postgres, process};

/// A file that must be there, and the Debian package that brings it.
struct Need {
    program: &'static str,
    package: &'static str,
}

const NEEDS: [Need; 14] = [
    Need { program: "etcd", package: "etcd-server" },
    Need { program: "containerd", package: "containerd" },
    Need { program: "containerd-shim-runc-v2", package: "containerd" },
    Need { program: "ctr", package: "containerd" },
    Need { program: "runc", package: "runc" },
    Need { program: "bridge", package: "containernetworking-plugins" },
    Need { program: "buildah", package: "buildah" },
    Need { program: "mmdebstrap", package: "mmdebstrap" },
    Need { program: "iptables", package: "iptables" },
    Need { program: "conntrack", package: "conntrack" },
    Need { program: "socat", package: "socat" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "openssl", package: "openssl" },
    Need { program: "strip", package: "binutils" },
];

/// Where Debian puts the CNI plugins, which are on nobody's search path.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Packages that are missing here, each once.
pub fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDS.iter().filter(|need| !need.is_met()).map(|need| need.package).collect();
    packages.dedup();
    packages
}

impl Need {
    fn is_met(&self) -> bool {
        match self.package {
            "containernetworking-plugins" => Path::new(CNI_PLUGINS).join(self.program).is_file(),
            _ => process::on_path(self.program).is_some(),
        }
    }
}

/// # Errors
/// One sentence with the command to type when something is missing and cannot be installed from here.
pub fn find_or_install() -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let missing_text = format!("the test cluster needs programs that are not installed (Debian packages: {names})");
    if process::on_path("apt-get").is_none() {
        bail!("{missing_text}; install them with the package manager of your distribution");
    }
    if !postgres::is_root() {
        bail!("{missing_text}; type: sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}");
    }
    println!("      {missing_text}; installing them with apt-get");
    install(&packages).with_context(|| {
        format!("installing them failed; type: apt-get update && apt-get install -y --no-install-recommends {names}")
    })?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("apt-get ran, but programs of {} are still missing; look at its output above", still.join(" ")),
    }
}

/// Unpacks packages below `root` without installing them, so that none of their scripts runs. `downloads` is a folder that does
/// not exist yet.
///
/// # Errors
/// When they cannot be downloaded or unpacked.
pub fn unpack(packages: &[&str], downloads: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(downloads).with_context(|| format!("failed to make {}", downloads.display()))?;
    let download = || {
        let mut apt = Command::new("apt-get");
        // apt gives up root for downloads, and the folder is ours alone.
        apt.args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(packages).current_dir(downloads);
        process::capture("apt-get download", &mut apt)
    };
    // A fresh machine has no lists of packages yet.
    if download().is_err() {
        process::capture("apt-get update", Command::new("apt-get").args(["update", "-q"]))?;
        download()?;
    }
    let entries = fs::read_dir(downloads).with_context(|| format!("failed to read {}", downloads.display()))?;
    for package in entries.flatten() {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("--extract").arg(package.path()).arg(root);
        process::capture("dpkg-deb", &mut extract)?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let quiet = NoServices::enforce()?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        process::run("apt-get", &mut command)
    };
    let installed = apt(&["update", "-q"]).and_then(|()| {
        let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
        arguments.extend(packages);
        apt(&arguments)
    });
    let removed = quiet.lift();
    installed.and(removed)
}

/// Debian starts etcd and containerd as services when it installs them; this file, there only while we install,
/// says not to.
struct NoServices {
    file: PathBuf,
    is_ours: bool,
}

impl NoServices {
    fn enforce() -> Result<NoServices> {
        let file = PathBuf::from("/usr/sbin/policy-rc.d");
        let is_ours = !file.exists();
        if is_ours {
            fs::write(&file, "#!/bin/sh\nexit 101\n").with_context(|| format!("failed to write {}", file.display()))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("failed to set the mode of {}", file.display()))?;
        }
        Ok(NoServices { file, is_ours })
    }

    fn lift(self) -> Result<()> {
        if self.is_ours {
            fs::remove_file(&self.file).with_context(|| format!("failed to remove {}", self.file.display()))?;
        }
        Ok(())
    }
}
