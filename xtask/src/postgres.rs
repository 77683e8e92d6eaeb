//! A private PostgreSQL: found or installed, started in a folder of its own on a free port, and stopped with us.
//!
//! PostgreSQL refuses to run as root, so as root it runs as `postgres` or `nobody`; the folder belongs to that user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{interrupt, process};

/// Older servers lack what our migrations use.
const OLDEST_MAJOR: u32 = 15;

/// Our superuser and our database inside the private server.
const USER: &str = "curio";
const DATABASE: &str = "curio";
/// Where a server listens unless somebody else has to reach it.
const LOOPBACK: &str = "127.0.0.1";

/// Programs of one PostgreSQL version.
#[derive(Clone)]
pub struct Installation {
    pub bin: PathBuf,
    pub major: u32,
    pub version: String,
}

impl Installation {
    /// The newest installation that is new enough.
    pub fn find() -> Option<Installation> {
        let mut found: Vec<Installation> = candidates().iter().filter_map(|bin| inspect(bin)).collect();
        found.sort_by_key(|installation| installation.major);
        found.pop().filter(|installation| installation.major >= OLDEST_MAJOR)
    }

    /// Finds PostgreSQL, or installs it from the distribution when this program is root.
    ///
    /// # Errors
    /// One sentence with the command to type when it is missing and cannot be installed from here.
    pub fn find_or_install() -> Result<Installation> {
        if let Some(found) = Installation::find() {
            return Ok(found);
        }
        let missing = format!("PostgreSQL {OLDEST_MAJOR} or newer is not installed");
        if process::on_path("apt-get").is_none() {
            bail!("{missing}; install the server package of your distribution (initdb and pg_ctl must be there)");
        }
        if !is_root() {
            bail!("{missing}; type: sudo apt-get update && sudo apt-get install -y postgresql");
        }
        println!("      {missing}; installing it with apt-get");
        install_from_debian().with_context(|| {
            format!("{missing} and installing it failed; type: apt-get update && apt-get install -y postgresql")
        })?;
        Installation::find().with_context(|| {
            format!("apt-get installed postgresql, but it is older than {OLDEST_MAJOR}; install a newer one")
        })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut bins = Vec::new();
    if let Ok(said) = process::capture("pg_config", Command::new("pg_config").arg("--bindir")) {
        bins.push(PathBuf::from(said.trim()));
    }
    for (parent, rest) in [("/usr/lib/postgresql", "bin"), ("/usr/local/pgsql", ""), ("/usr/lib64/pgsql", "")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            bins.push(entry.path().join(rest));
        }
    }
    for entry in fs::read_dir("/usr").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("pgsql-") {
            bins.push(entry.path().join("bin"));
        }
    }
    if let Some(file) = process::on_path("initdb").and_then(|file| fs::canonicalize(file).ok()) {
        bins.extend(file.parent().map(Path::to_path_buf));
    }
    bins
}

fn inspect(bin: &Path) -> Option<Installation> {
    let whole = ["initdb", "postgres", "pg_ctl", "psql"].iter().all(|name| bin.join(name).is_file());
    if !whole {
        return None;
    }
    let said = process::capture("postgres", Command::new(bin.join("postgres")).arg("--version")).ok()?;
    let (major, version) = parse_version(&said)?;
    Some(Installation { bin: bin.to_path_buf(), major, version })
}

/// Takes `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` apart.
fn parse_version(said: &str) -> Option<(u32, String)> {
    let version = said.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, version.to_owned()))
}

fn install_from_debian() -> Result<()> {
    // Debian would make and start a server of its own, which would outlive us; this file, there only while we
    // install, says not to.
    let dir = Path::new("/etc/postgresql-common/createcluster.d");
    let file = dir.join("curio-xtask.conf");
    fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    fs::write(&file, "create_main_cluster = false\n").with_context(|| format!("failed to write {}", file.display()))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        process::run("apt-get", &mut command)
    };
    let installed = apt(&["update", "-q"]).and_then(|()| apt(&["install", "-q", "-y", "postgresql"]));
    let removed = fs::remove_file(&file).with_context(|| format!("failed to remove {}", file.display()));
    installed.and(removed)
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// The user that the server runs as when we are root.
#[derive(Clone)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` when we are not root and the server runs as we do.
    fn choose() -> Result<Option<Account>> {
        if !is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(Account::named)
            .map(Some)
            .context("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody; add one")
    }

    fn named(name: &str) -> Option<Account> {
        let text = fs::read_to_string("/etc/passwd").ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name: name.to_owned(), uid, gid })
    }

    fn own(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("failed to give {} to the user {}", path.display(), self.name))
    }
}

/// How much the server does for data that outlives a power cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production: every commit is on the disk.
    Full,
    /// For tests: survives the death of the server, not of the machine.
    ProcessOnly,
}

/// A running server. Dropping it stops it; its folder goes with the folder it was made in.
pub struct Server {
    installation: Installation,
    account: Option<Account>,
    data: PathBuf,
    log: PathBuf,
    address: &'static str,
    port: u16,
    password: String,
    child: Option<Child>,
}

impl Server {
    /// Makes and starts a server below `parent`, which other users must be able to pass through.
    ///
    /// # Errors
    /// When the programs cannot run or the server is not ready within a minute; its log's end is in the error.
    pub fn start(installation: &Installation, parent: &Path, durability: Durability) -> Result<Server> {
        Server::start_at(LOOPBACK, installation, parent, durability)
    }

    /// [`Server::start`] at another address of this machine, such as the one that pods reach.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_at(
        address: &'static str,
        installation: &Installation,
        parent: &Path,
        durability: Durability,
    ) -> Result<Server> {
        let account = Account::choose()?;
        let home = parent.join("postgres");
        fs::create_dir(&home).with_context(|| format!("failed to make {}", home.display()))?;
        let password = random_word()?;
        let secret = home.join("password");
        fs::write(&secret, &password).with_context(|| format!("failed to write {}", secret.display()))?;
        if let Some(account) = &account {
            account.own(&home)?;
            account.own(&secret)?;
        }
        let mut server = Server {
            installation: installation.clone(),
            account,
            data: home.join("data"),
            log: home.join("server.log"),
            address,
            port: 0,
            password,
            child: None,
        };
        let mut initdb = server.program("initdb");
        initdb.arg("--pgdata").arg(&server.data).arg(format!("--username={USER}")).arg("--pwfile").arg(&secret);
        initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
        process::capture("initdb", &mut initdb)?;
        server.admit()?;
        fs::remove_file(&secret).with_context(|| format!("failed to remove {}", secret.display()))?;

        // A free port can be taken between our look and the server's, so a few are tried.
        let mut last = None;
        for _ in 0..3 {
            server.port = free_port()?;
            server.configure(durability)?;
            match server.launch() {
                Ok(()) => {
                    server.create_database()?;
                    return Ok(server);
                }
                Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the loop ran at least once"))
    }

    /// Where clients connect; the password is in it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{}@{}:{}/{DATABASE}", self.password, self.address, self.port)
    }

    /// [`Server::url`] with our schema first on the search path, as checked queries and test databases want it.
    pub fn url_with_schema(&self) -> String {
        format!("{}?options=-csearch_path%3Dcurio", self.url())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A shell command that stops the server the hard way, as a crash would.
    pub fn stop_command(&self) -> String {
        self.shell(&format!("stop -D {} -m immediate -w", process::quote(&self.data.to_string_lossy())))
    }

    /// A shell command that starts it again on the same port and data.
    pub fn start_command(&self) -> String {
        let data = process::quote(&self.data.to_string_lossy());
        let log = process::quote(&self.log.to_string_lossy());
        self.shell(&format!("start -D {data} -l {log} -w"))
    }

    fn shell(&self, arguments: &str) -> String {
        let pg_ctl = process::quote(&self.installation.program("pg_ctl").to_string_lossy());
        let command = format!("cd / && {pg_ctl} {arguments}");
        match &self.account {
            Some(account) => format!("su {} -s /bin/sh -c {}", account.name, process::quote(&command)),
            None => command,
        }
    }

    /// Collects the exit of a server that somebody stopped, so that its pid is free for the next one.
    pub fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            self.child = None;
        }
    }

    /// The file whose first line is the postmaster's pid, whoever started it.
    pub fn pid_file(&self) -> PathBuf {
        self.data.join("postmaster.pid")
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Runs a file of SQL in our database and stops at the first error.
    ///
    /// # Errors
    /// When `psql` fails; its words are in the error.
    pub fn apply(&self, file: &Path) -> Result<()> {
        let what = format!("--file={}", file.display());
        self.psql(DATABASE, &what).with_context(|| format!("failed to apply {}", file.display()))
    }

    /// Makes our schema, as `curio migrate` does before the first migration.
    ///
    /// # Errors
    /// When `psql` fails.
    pub fn create_schema(&self) -> Result<()> {
        self.psql(DATABASE, "--command=CREATE SCHEMA IF NOT EXISTS curio")
    }

    fn create_database(&self) -> Result<()> {
        self.psql("postgres", &format!("--command=CREATE DATABASE {DATABASE}"))
    }

    fn psql(&self, database: &str, what: &str) -> Result<()> {
        let mut psql = plain(self.installation.program("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
            .arg(format!("--host={}", self.address))
            .arg(format!("--port={}", self.port))
            .arg(format!("--username={USER}"))
            .arg(format!("--dbname={database}"))
            .arg(what)
            .env("PGPASSWORD", &self.password);
        process::capture("psql", &mut psql).map(drop)
    }

    /// Lets clients of other addresses in, by password. Who those can be, the address that we listen at decides.
    fn admit(&self) -> Result<()> {
        let file = self.data.join("pg_hba.conf");
        let rules = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        let rules = rules + "host all all all scram-sha-256\n";
        fs::write(&file, rules).with_context(|| format!("failed to write {}", file.display()))
    }

    fn configure(&self, durability: Durability) -> Result<()> {
        let mut text = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = ''\nmax_connections = 300\n\
             shared_buffers = 64MB\njit = off\nlog_checkpoints = off\n",
            self.address, self.port
        );
        if durability == Durability::ProcessOnly {
            text.push_str("fsync = off\nfull_page_writes = off\n");
        }
        let file = self.data.join("postgresql.auto.conf");
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))
    }

    /// Starts the server as our child and waits until it takes connections.
    fn launch(&mut self) -> Result<()> {
        let log = fs::File::create(&self.log).with_context(|| format!("failed to make {}", self.log.display()))?;
        if let Some(account) = &self.account {
            account.own(&self.log)?;
        }
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).stdin(Stdio::null());
        command.stdout(log.try_clone().context("failed to share the log")?).stderr(log);
        let child = process::tied(&mut command).spawn().context("failed to start postgres")?;
        self.child = Some(child);

        let due_by = Instant::now() + Duration::from_secs(60);
        while Instant::now() < due_by {
            let mut ready = self.program("pg_ctl");
            ready.arg("status").arg("-D").arg(&self.data);
            if self.is_ready() && process::output(&mut ready)?.status.success() {
                return Ok(());
            }
            self.reap();
            if self.child.is_none() {
                break;
            }
            interrupt::pause(Duration::from_millis(50))?;
        }
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        self.halt();
        bail!("PostgreSQL did not start: {}", lines[lines.len().saturating_sub(5)..].join(" / "))
    }

    /// The eighth line of postmaster.pid says `ready` once connections are taken.
    fn is_ready(&self) -> bool {
        fs::read_to_string(self.pid_file())
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|state| state.trim() == "ready"))
    }

    /// A PostgreSQL program that runs as the server's user.
    fn program(&self, name: &str) -> Command {
        let mut command = plain(self.installation.program(name));
        command.current_dir("/");
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Stops the server, also one that was started by [`Server::start_command`].
    fn halt(&mut self) {
        // Not through `process::output`: this must work after Ctrl-C, too.
        for mode in ["fast", "immediate"] {
            let mut stop = self.program("pg_ctl");
            stop.arg("stop").arg("-D").arg(&self.data).args(["-m", mode, "-w", "-t", "15"]);
            stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if self.pid().is_none() || stop.status().is_ok_and(|status| status.success()) {
                break;
            }
        }
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, Duration::from_secs(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A program free of the PostgreSQL settings in our environment, which are meant for somebody else's server.
fn plain(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C");
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("PG") {
            command.env_remove(key);
        }
    }
    command
}

/// A port on 127.0.0.1 that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port on 127.0.0.1")?;
    Ok(listener.local_addr().context("failed to read a port number")?.port())
}

/// 32 hexadecimal digits from the system's chance; good for secrets.
pub fn random_word() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let mut source = fs::File::open("/dev/urandom").context("failed to open /dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("failed to read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        for (said, expected) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, "15.18"))),
            ("postgres (PostgreSQL) 17beta2\n", Some((17, "17beta2"))),
            ("postgres", None),
        ] {
            let expected = expected.map(|(major, version)| (major, version.to_owned()));
            assert_eq!(parse_version(said), expected, "{said}");
        }
    }

    #[test]
    fn a_private_server_is_stopped_started_again_and_leaves_nothing() {
        let Some(installation) = Installation::find() else {
            panic!("PostgreSQL {OLDEST_MAJOR} is missing; `cargo xtask test` installs it");
        };
        let dir = crate::places::scratch("postgres-test").expect("a scratch folder");
        let mut server = Server::start(&installation, dir.path(), Durability::ProcessOnly).expect("the server starts");
        server.psql(DATABASE, "--command=CREATE TABLE kept (x int)").expect("SQL runs");

        let shell = |command: &str| Command::new("sh").args(["-c", command]).stdout(Stdio::null()).status();
        assert!(shell(&server.stop_command()).expect("sh runs").success());
        server.reap();
        assert!(server.psql(DATABASE, "--command=SELECT 1").is_err(), "the server still answers");
        assert!(shell(&server.start_command()).expect("sh runs").success());
        server.psql(DATABASE, "--command=SELECT x FROM kept").expect("the data is still there");

        let pid = server.pid().expect("it runs");
        drop(server);
        assert!(!process::is_alive(pid), "postmaster {pid} still runs");
    }
}
