//! A PostgreSQL of one test's own, to be stopped without warning and started again.

// Each test file uses a part.
#![allow(dead_code)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The server; stopped at the end.
pub struct Postgres {
    bin: PathBuf,
    account: Option<(u32, u32)>,
    dir: TempDir,
    port: u16,
}

impl Postgres {
    /// Makes and starts a server.
    ///
    /// # Panics
    /// When PostgreSQL's programs are not installed, with what to do.
    pub fn start() -> Postgres {
        let bin = find_programs().expect("these tests need PostgreSQL's server programs (initdb, pg_ctl); install them, or run `cargo xtask test`, which does");
        let dir = tempfile::tempdir().expect("a temporary folder");
        // PostgreSQL refuses to run as root.
        let account = rustix_is_root().then(|| account_of(&["postgres", "nobody"]).expect("a user postgres or nobody"));
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("the folder is given away");
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let server = Postgres { bin, account, dir, port };
        server.run(
            "initdb",
            &["-U", "curio", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"],
        );
        server.pg_ctl_start();
        server
    }

    pub fn url(&self) -> String {
        format!("postgres://curio@127.0.0.1:{}/postgres", self.port)
    }

    /// `pg_ctl stop -m immediate`: as a power cut, as far as the server is concerned.
    pub fn stop_immediately(&self) {
        self.run("pg_ctl", &["stop", "-m", "immediate", "-w"]);
    }

    pub fn pg_ctl_start(&self) {
        let log = self.dir.path().join("log").display().to_string();
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories='' -c max_connections=100",
            self.port
        );
        self.run("pg_ctl", &["start", "-w", "-l", &log, "-o", &options]);
    }

    /// A copy of everything the server has, as a backup is. The server is away meanwhile.
    pub fn back_up(&self) -> Backup {
        self.run("pg_ctl", &["stop", "-m", "fast", "-w"]);
        let backup = Backup(self.dir.path().join("backup"));
        copy(&self.data(), &backup.0);
        self.pg_ctl_start();
        backup
    }

    /// Sets the server back to the backup, after a power cut.
    pub fn restore(&self, backup: &Backup) {
        self.stop_immediately();
        std::fs::remove_dir_all(self.data()).expect("the data can be removed");
        copy(&backup.0, &self.data());
        self.pg_ctl_start();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .arg("-D")
            .arg(self.data())
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, args: &[&str]) {
        let status = self.command(program, args).status().expect("the program starts");
        assert!(status.success(), "{program} {args:?} ended with {status}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl", &["stop", "-m", "immediate", "-w"]).status();
    }
}

/// The files of a server at some moment.
pub struct Backup(PathBuf);

/// Copies a folder with owners and modes, which PostgreSQL looks at.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(status.success(), "copying {} ended with {status}", from.display());
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn account_of(names: &[&str]) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    names.iter().find_map(|name| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// The folder with initdb and pg_ctl: on the path, or where Debian and Red Hat keep it.
fn find_programs() -> Option<PathBuf> {
    let on_path =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let mut versions: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr"]
        .into_iter()
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    let is_whole = |folder: &Path| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file();
    versions.into_iter().rev().chain(on_path).find(|folder| is_whole(folder))
}
