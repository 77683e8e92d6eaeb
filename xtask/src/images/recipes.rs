//! What goes into each image.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::builder::{Builder, Recipe};
use super::{Archive, DEBIAN, DEVNET, OPERATOR, PAUSE, POSTGRES, RUNNER};
use crate::cargo::{self, Kind};
use crate::cluster::packages;
use crate::{places, process};

/// Stands for the public base image of the Dockerfiles.
const BASE: &str = "localhost/curio-base:1";

/// The stage of the Dockerfiles that compiles, and its folder that the last stage copies from.
const STAGE: &str = "build";
const OUT: &str = "out";

/// Programs that the workspace's build made.
pub struct Programs(Vec<(&'static str, PathBuf)>);

/// Builds the whole workspace: the same features, and so the same dependencies, as in the tests.
///
/// # Errors
/// When it does not compile.
pub fn compile() -> Result<Programs> {
    let mut build = cargo::command("build")?;
    build.arg("--workspace");
    let built = cargo::build("the build", &mut build)?;
    let find = |name: &'static str| {
        let found = built.iter().find(|built| built.kind == Kind::Program && built.target == name);
        let path = found.map(|built| built.path.clone());
        Ok((name, path.with_context(|| format!("cargo did not say where it put {name}"))?))
    };
    Ok(Programs(["curio", "curio-operator", "curio-devnet"].into_iter().map(find).collect::<Result<_>>()?))
}

impl Programs {
    fn path(&self, name: &str) -> Result<&Path> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("{name} was not built"))
    }
}

pub fn runner(builder: &Builder, programs: &Programs) -> Result<(Archive, bool)> {
    ours(builder, RUNNER, "Dockerfile.runner", programs.path("curio")?)
}

pub fn operator(builder: &Builder, programs: &Programs) -> Result<(Archive, bool)> {
    ours(builder, OPERATOR, "Dockerfile.operator", programs.path("curio-operator")?)
}

pub fn devnet(builder: &Builder, programs: &Programs) -> Result<(Archive, bool)> {
    ours(builder, DEVNET, "Dockerfile.devnet", programs.path("curio-devnet")?)
}

/// One of our own images. The program's time and size stand for its content: cargo writes it only when it changed.
fn ours(builder: &Builder, name: &'static str, dockerfile: &str, program: &Path) -> Result<(Archive, bool)> {
    let dockerfile = places::repository().join(dockerfile);
    let text = read(&dockerfile)?;
    let meta = fs::metadata(program).with_context(|| format!("failed to read {}", program.display()))?;
    let made = format!("{} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec());
    let (base, _) = base(builder)?;
    let recipe = Recipe { name, inputs: &[text.as_bytes(), made.as_bytes(), base.id.as_bytes()] };
    builder.archive(&recipe, |context| {
        builder.provide(&base)?;
        // In place of the stage that compiles: the program, without its symbols, where that stage would put it.
        let out = context.join(OUT);
        make_dir(&out)?;
        let file = program.file_name().context("a program has a name")?;
        let mut strip = Command::new("strip");
        strip.arg("--strip-all").arg("-o").arg(out.join(file)).arg(program);
        process::capture("strip", &mut strip)?;
        let mut build = builder.build(&dockerfile);
        build.arg(format!("--build-arg=BASE={BASE}"));
        build.arg(format!("--build-context={STAGE}={}", context.display()));
        Ok(build)
    })
}

/// The base of our images where there is no registry: this machine's C library, certificates and time zones, no shell.
/// The programs were linked against this very C library.
fn base(builder: &Builder) -> Result<(Archive, bool)> {
    const PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "ca-certificates", "tzdata"];
    const DOCKERFILE: &str = "FROM scratch\nCOPY root /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n";
    let libc = process::capture("dpkg-query", Command::new("dpkg-query").args(["--show", "libc6"]))?;
    let recipe = Recipe { name: BASE, inputs: &[DOCKERFILE.as_bytes(), libc.as_bytes(), b"1"] };
    builder.archive(&recipe, |context| {
        let root = context.join("root");
        packages::unpack(&PACKAGES, &context.join("packages"), &root)?;
        finish_root(&root)?;
        let dockerfile = context.join("Dockerfile");
        write(&dockerfile, DOCKERFILE)?;
        Ok(builder.build(&dockerfile))
    })
}

/// What the packages' scripts would have done, and what nobody reads in a container.
fn finish_root(root: &Path) -> Result<()> {
    let authorities = root.join("usr/share/ca-certificates/mozilla");
    let mut files: Vec<PathBuf> = fs::read_dir(&authorities)
        .with_context(|| format!("failed to read {}", authorities.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let bundle = files.iter().map(|file| read(file)).collect::<Result<String>>()?;
    let certificates = root.join("etc/ssl/certs");
    make_dir(&certificates)?;
    write(&certificates.join("ca-certificates.crt"), &bundle)?;
    write(
        &root.join("etc/passwd"),
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
    )?;
    write(&root.join("etc/group"), "root:x:0:\nnonroot:x:65532:\n")?;
    write(&root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    make_dir(&root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).context("failed to open /tmp to all")?;
    make_dir(&root.join("home/nonroot"))?;
    std::os::unix::fs::chown(root.join("home/nonroot"), Some(65532), Some(65532))
        .context("failed to give a home away")?;
    for unread in ["usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/ca-certificates", "usr/sbin"] {
        drop(fs::remove_dir_all(root.join(unread)));
    }
    // Some programs look where Red Hat keeps the bundle.
    make_dir(&root.join("etc/pki/tls/certs"))?;
    symlink("/etc/ssl/certs/ca-certificates.crt", root.join("etc/pki/tls/certs/ca-bundle.crt"))
        .context("failed to link the certificates")
}

/// The process that holds a pod's network.
pub fn pause(builder: &Builder) -> Result<(Archive, bool)> {
    const DOCKERFILE: &str = "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n";
    let source = places::repository().join("xtask/cluster/pause.rs");
    let text = read(&source)?;
    builder.archive(&Recipe { name: PAUSE, inputs: &[text.as_bytes(), DOCKERFILE.as_bytes()] }, |context| {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2024", "--crate-name=pause", "-Ctarget-feature=+crt-static", "-Copt-level=s"]);
        rustc.args(["-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat"]).arg("-o").arg(context.join("pause")).arg(&source);
        process::capture("rustc", &mut rustc)?;
        let dockerfile = context.join("Dockerfile");
        write(&dockerfile, DOCKERFILE)?;
        Ok(builder.build(&dockerfile))
    })
}

/// Manuals and translations are half of a small Debian, and LLVM, which PostgreSQL can do without, is more than half of
/// its packages.
const UNWANTED: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/lib/*/libLLVM*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
];

pub fn debian(builder: &Builder) -> Result<(Archive, bool)> {
    const DOCKERFILE: &str = "FROM scratch\nADD root.tar /\nCMD [\"/bin/sh\"]\n";
    let exclude: Vec<String> = UNWANTED.iter().map(|path| format!("--dpkgopt=path-exclude={path}")).collect();
    let inputs = [DOCKERFILE.as_bytes(), &exclude.join(" ").into_bytes()];
    builder.archive(&Recipe { name: DEBIAN, inputs: &inputs }, |context| {
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", "--include=ca-certificates"]).args(&exclude);
        // The lists and the packages themselves are of no use in an image.
        make.arg("--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*");
        make.arg("bookworm").arg(context.join("root.tar"));
        process::capture("mmdebstrap", &mut make)?;
        let dockerfile = context.join("Dockerfile");
        write(&dockerfile, DOCKERFILE)?;
        Ok(builder.build(&dockerfile))
    })
}

pub fn postgres(builder: &Builder) -> Result<(Archive, bool)> {
    // The user comes before the package, which would take any free number for it. The package would also make a server
    // of its own, which is of no use in an image.
    const DOCKERFILE: &str = "\
FROM localhost/debian:bookworm-slim
RUN groupadd --system --gid 999 postgres \\
 && useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/sh postgres \\
 && mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \\
 && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \\
    -o Dpkg::Options::=--force-confold postgresql-15 \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \\
 && install -d -o 999 -g 999 /var/lib/postgresql /var/run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
USER 999:999
WORKDIR /var/lib/postgresql
";
    let (debian, _) = debian(builder)?;
    let inputs = [DOCKERFILE.as_bytes(), debian.id.as_bytes()];
    builder.archive(&Recipe { name: POSTGRES, inputs: &inputs }, |context| {
        builder.provide(&debian)?;
        let dockerfile = context.join("Dockerfile");
        write(&dockerfile, DOCKERFILE)?;
        Ok(builder.build(&dockerfile))
    })
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dockerfile_copies_the_program_from_where_this_command_puts_it() {
        for (dockerfile, program) in [
            ("Dockerfile.runner", "curio"),
            ("Dockerfile.operator", "curio-operator"),
            ("Dockerfile.devnet", "curio-devnet"),
        ] {
            let text = read(&places::repository().join(dockerfile)).expect("it is in the repository");
            let copy = format!("COPY --from={STAGE} /{OUT}/{program} /usr/local/bin/{program}\n");
            assert!(text.contains(&copy), "{dockerfile} lacks {copy}");
            assert!(text.contains("\nUSER 65532:65532\n"), "{dockerfile} runs as root");
        }
    }
}
