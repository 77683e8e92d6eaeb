//! What this machine has: cores and memory by its control group, and graphics devices that it can see.
//!
//! Reads `/proc`, `/sys/fs/cgroup` and `/dev`. A container's host has more than the container may use.

use std::fs;
use std::path::{Path, PathBuf};

use curio_core::Resources;

/// A cgroup v1 memory limit above this means none (the kernel writes a page-aligned maximum).
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Cores, memory and devices of this process's control group.
///
/// `HARMONY_OVERRIDE_GPUS` (a number of devices, fractions allowed) replaces what is found.
pub fn detect() -> Resources {
    detect_in(Path::new("/"), |name| std::env::var(name).ok())
}

/// [`detect`] below another root and with another environment.
fn detect_in(root: &Path, env: impl Fn(&str) -> Option<String>) -> Resources {
    let host_cpu = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let own = read(root, "proc/self/cgroup").unwrap_or_default();
    let host_ram = read(root, "proc/meminfo").and_then(|text| parse_meminfo(&text)).unwrap_or(0);
    let limits = group_folders(&own).into_iter().fold(Limits::default(), |limits, folder| {
        limits.tighter(read_limits(&root.join("sys/fs/cgroup").join(folder)))
    });
    let devices = fs::read_dir(root.join("dev")).map_or(0, |entries| {
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        count_devices(names)
    });
    Resources {
        cpu: limits.cpu.map_or(host_cpu, |quota| quota.min(host_cpu)).max(1),
        ram_bytes: limits.ram_bytes.map_or(host_ram, |limit| limit.min(host_ram.max(1))),
        gpu_milli: gpu_milli(devices, &env),
    }
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// Limits of one group; none where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    cpu: Option<u32>,
    ram_bytes: Option<u64>,
}

impl Limits {
    fn tighter(self, other: Limits) -> Limits {
        let min = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Limits { cpu: self.cpu.into_iter().chain(other.cpu).min(), ram_bytes: min(self.ram_bytes, other.ram_bytes) }
    }
}

/// Folders below `/sys/fs/cgroup` whose limits apply, from `/proc/self/cgroup`: the group itself and its
/// parents, because the tightest limit counts. Inside a container the group's folder is the root.
fn group_folders(own: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let bases: Vec<&str> = if controllers.is_empty() {
            vec![""]
        } else if controllers.split(',').any(|name| name == "memory") {
            vec!["memory"]
        } else if controllers.split(',').any(|name| name == "cpu") {
            vec!["cpu", "cpu,cpuacct"]
        } else {
            continue;
        };
        for base in bases {
            let mut path = Path::new(path.trim_start_matches('/'));
            loop {
                folders.push(Path::new(base).join(path));
                match path.parent() {
                    Some(parent) => path = parent,
                    None => break,
                }
            }
        }
    }
    folders
}

/// Limits in one folder; v2 names first, then v1.
fn read_limits(folder: &Path) -> Limits {
    let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let quota_v1 = || parse_cpu_v1(&text("cpu.cfs_quota_us")?, &text("cpu.cfs_period_us")?);
    Limits {
        cpu: text("cpu.max").and_then(|text| parse_cpu_v2(&text)).or_else(quota_v1),
        ram_bytes: text("memory.max")
            .and_then(|text| parse_memory(&text))
            .or_else(|| text("memory.limit_in_bytes").and_then(|text| parse_memory(&text))),
    }
}

/// `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn parse_cpu_v2(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    parse_cpu_v1(quota, period)
}

/// Quota and period in microseconds; a quota of -1 or `max` is none. Part of a core counts as one.
fn parse_cpu_v1(quota: &str, period: &str) -> Option<u32> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|period| *period > 0)?;
    u32::try_from((quota / period).max(1)).ok()
}

/// A limit in bytes; `max` or an enormous number is none.
fn parse_memory(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// Total memory in bytes from `/proc/meminfo`.
fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Device files `nvidia0`, `nvidia1`, ...; not `nvidiactl` and its like.
fn count_devices(names: impl Iterator<Item = String>) -> u32 {
    let is_device = |name: &String| {
        name.strip_prefix("nvidia")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    u32::try_from(names.filter(is_device).count()).unwrap_or(u32::MAX)
}

/// Thousandths of a device that this process may use.
fn gpu_milli(devices: u32, env: &impl Fn(&str) -> Option<String>) -> u32 {
    if let Some(devices) = env("HARMONY_OVERRIDE_GPUS").and_then(|text| text.trim().parse::<f64>().ok())
        && devices.is_finite()
        && devices >= 0.0
    {
        // The cast saturates; nobody has four million devices.
        return (devices * 1000.0).round() as u32;
    }
    let visible = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]
        .into_iter()
        .filter_map(|name| env(name).map(|text| visible_devices(&text, devices)))
        .min();
    visible.unwrap_or(devices).min(devices).saturating_mul(1000)
}

/// How many devices a list like `0,1`, `GPU-8f3c...`, `all` or `none` shows.
fn visible_devices(list: &str, devices: u32) -> u32 {
    match list.trim() {
        "all" => devices,
        "" | "none" | "void" | "NoDevFiles" | "-1" => 0,
        list => {
            // CUDA stops at the first entry that is not a device.
            let entries = list.split(',').map(str::trim).take_while(|entry| !entry.is_empty() && *entry != "-1");
            u32::try_from(entries.count()).unwrap_or(u32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use curio_core::resources::GIB;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("max 100000", None)]
    #[case("400000 100000\n", Some(4))]
    #[case("150000 100000", Some(1))]
    #[case("50000 100000", Some(1))]
    #[case("400000 0", None)]
    #[case("nonsense", None)]
    fn a_v2_quota_is_whole_cores(#[case] text: &str, #[case] expected: Option<u32>) {
        assert_eq!(parse_cpu_v2(text), expected);
    }

    #[rstest]
    #[case("-1", "100000", None)]
    #[case("250000\n", "100000\n", Some(2))]
    fn a_v1_quota_is_whole_cores(#[case] quota: &str, #[case] period: &str, #[case] expected: Option<u32>) {
        assert_eq!(parse_cpu_v1(quota, period), expected);
    }

    #[rstest]
    #[case("max", None)]
    #[case("9223372036854771712", None)]
    #[case("1073741824\n", Some(GIB))]
    fn a_memory_limit_is_bytes_or_none(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(parse_memory(text), expected);
    }

    #[rstest]
    #[case("all", 4, 4)]
    #[case("none", 4, 0)]
    #[case("", 4, 0)]
    #[case("0,2", 4, 2)]
    #[case("GPU-8f3c, GPU-11aa", 4, 2)]
    #[case("0,-1,1", 4, 1)]
    fn a_device_list_is_counted(#[case] list: &str, #[case] devices: u32, #[case] expected: u32) {
        assert_eq!(visible_devices(list, devices), expected);
    }

    #[rstest]
    #[case::all_of_them(2, &[], 2000)]
    #[case::fewer_by_the_container(2, &[("NVIDIA_VISIBLE_DEVICES", "1")], 1000)]
    #[case::the_shorter_list(2, &[("NVIDIA_VISIBLE_DEVICES", "all"), ("CUDA_VISIBLE_DEVICES", "")], 0)]
    #[case::a_list_shows_no_more_than_there_are(1, &[("CUDA_VISIBLE_DEVICES", "0,1,2")], 1000)]
    #[case::override_wins(0, &[("HARMONY_OVERRIDE_GPUS", "1.5"), ("CUDA_VISIBLE_DEVICES", "")], 1500)]
    #[case::nonsense_overrides_nothing(1, &[("HARMONY_OVERRIDE_GPUS", "many")], 1000)]
    fn devices_are_those_that_are_visible(#[case] devices: u32, #[case] env: &[(&str, &str)], #[case] expected: u32) {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(gpu_milli(devices, &env), expected);
    }

    #[test]
    fn the_group_and_its_parents_count() {
        let v2: Vec<_> = group_folders("0::/kubepods/pod1\n");
        assert_eq!(v2, [Path::new("kubepods/pod1"), Path::new("kubepods"), Path::new("")]);
        let v1 = group_folders("5:memory:/docker/x\n4:cpu,cpuacct:/\n3:pids:/\n");
        let expected = ["memory/docker/x", "memory/docker", "memory", "cpu", "cpu,cpuacct"].map(Path::new);
        assert_eq!(v1, expected);
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn the_tightest_limit_of_a_v2_tree_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pod/app\n"),
            ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n"),
            ("sys/fs/cgroup/pod/memory.max", "2147483648"),
            ("sys/fs/cgroup/pod/app/memory.max", "max"),
            ("sys/fs/cgroup/pod/cpu.max", "100000 100000"),
            ("dev/nvidia0", ""),
            ("dev/nvidiactl", ""),
            ("dev/nvidia-uvm", ""),
        ]);
        let found = detect_in(root.path(), |_| None);
        assert_eq!(found, Resources { cpu: 1, ram_bytes: 2 * GIB, gpu_milli: 1000 });
    }

    #[test]
    fn a_v1_tree_is_read() {
        let root = tree(&[
            ("proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n"),
            ("proc/meminfo", "MemTotal: 16777216 kB\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824"),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "100000"),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000"),
        ]);
        let found = detect_in(root.path(), |_| None);
        assert_eq!(found, Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 });
    }

    #[test]
    fn without_limits_the_host_counts() {
        let root = tree(&[("proc/meminfo", "MemTotal: 1048576 kB\n")]);
        let found = detect_in(root.path(), |_| None);
        assert_eq!((found.ram_bytes, found.gpu_milli), (GIB, 0));
        assert!(found.cpu >= 1);
    }
}
