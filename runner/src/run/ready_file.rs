//! The file that tells whoever started this machine that it works, and where it is reached.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::RunError;
use super::address::loopback;

/// Writes the file whole or not at all: a reader never sees half of it.
pub(super) fn write(
    file: &Path,
    name: &str,
    machine_id: i64,
    local: SocketAddr,
    tasks: &[String],
) -> Result<(), RunError> {
    let failed = |source| RunError::ReadyFile { path: file.to_path_buf(), source };
    let host = if local.ip().is_unspecified() { SocketAddr::new(loopback(local), local.port()) } else { local };
    let ready = json!({
        "url": format!("http://{host}"),
        "machine": name,
        "machine_id": machine_id,
        "pid": std::process::id(),
        "tasks": tasks,
    });
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".writing");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, ready.to_string()).map_err(failed)?;
    std::fs::rename(&temporary, file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_is_whole_json() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("ready.json");
        write(&file, "sealing-0", 7, "0.0.0.0:12300".parse().expect("an address"), &["SDR".to_owned()])
            .expect("it is written");
        let text = std::fs::read_to_string(&file).expect("it is there");
        let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(value["url"], "http://127.0.0.1:12300");
        assert_eq!(value["machine"], "sealing-0");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing else is left");
    }
}
