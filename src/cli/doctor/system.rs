//! Can this machine mount, and follow a home? The device, the helper, the kernel, the limits, what earlier mounts left.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::Check;
use crate::cli::mounts::Mount;

/// The first kernel that answers what we ask for (an OPEN answered with ENOSYS for folders too).
const KERNEL_MIN: (u32, u32) = (5, 1);
/// How long a mount may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Of the watches that a user may have, this part should be enough for us.
const WATCHES_SHARE: u64 = 2;

/// The checks that need no home.
pub(super) fn checks() -> Vec<Check> {
    // SAFETY: geteuid cannot fail and touches no memory.
    let is_root = unsafe { libc::geteuid() } == 0;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        device(Path::new("/dev/fuse")),
        helper(find_helper(), is_root),
        fuse_conf(fs::read_to_string("/etc/fuse.conf").ok().as_deref(), is_root),
        kernel(release.trim()),
    ]
}

fn device(path: &Path) -> Check {
    let name = "/dev/fuse";
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    let Err(error) = opened else { return Check::ok(name, "can be opened") };
    let found = format!("cannot be opened: {error}");
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Check::problem(
            name,
            found,
            "`sudo modprobe fuse`; in a container, start it with `--device /dev/fuse --cap-add SYS_ADMIN`",
        ),
        Some(libc::EACCES | libc::EPERM) => {
            let mode = fs::metadata(path).map_or(0, |found| found.mode() & 0o777);
            Check::problem(
                name,
                format!("{found} (its mode is {mode:04o})"),
                "`sudo chmod 666 /dev/fuse`; to keep it, a udev rule: KERNEL==\"fuse\", MODE=\"0666\"",
            )
        }
        _ => Check::problem(name, found, "look into the system's log (`dmesg`)"),
    }
}

fn find_helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|file| file.is_file())
}

fn helper(found: Option<PathBuf>, is_root: bool) -> Check {
    let name = "fusermount3";
    let install = "`sudo apt install fuse3` (Fedora: `dnf install fuse3`, Arch: `pacman -S fuse3`)";
    let Some(path) = found else {
        return match is_root {
            true => Check::warning(name, "not installed: only root can mount", install),
            false => Check::problem(name, "not installed, and only root can mount without it", install),
        };
    };
    let shown = path.display();
    match fs::metadata(&path) {
        Ok(file) if file.mode() & 0o4000 != 0 && file.uid() == 0 => {
            Check::ok(name, format!("{shown}, setuid root"))
        }
        Ok(_) if is_root => Check::ok(name, format!("{shown}, not setuid (root needs no helper)")),
        Ok(_) => Check::problem(
            name,
            format!("{shown} is not setuid root: it cannot mount for an ordinary user"),
            format!("`sudo chown root {shown} && sudo chmod u+s {shown}`"),
        ),
        Err(error) => Check::problem(name, format!("{shown}: {error}"), install),
    }
}

fn fuse_conf(text: Option<&str>, is_root: bool) -> Check {
    let allowed = text.unwrap_or_default().lines().any(|line| line.trim() == "user_allow_other");
    let found = match (allowed, is_root) {
        (true, _) => "user_allow_other is set: --allow-other works for everybody",
        (false, true) => "user_allow_other is not set: --allow-other works for root only",
        (false, false) => {
            "user_allow_other is not set: --allow-other (for shares and other users) needs that line in /etc/fuse.conf"
        }
    };
    Check::ok("/etc/fuse.conf", found)
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Check::warning("kernel", format!("{release:?} says no version"), "5.1 or newer is needed");
    };
    if (major, minor) >= KERNEL_MIN {
        Check::ok("kernel", format!("Linux {release}"))
    } else {
        let (major, minor) = KERNEL_MIN;
        Check::problem("kernel", format!("Linux {release}"), format!("update to {major}.{minor} or newer"))
    }
}

/// Can all folders of the home be watched?
pub(super) fn watches(folders: u64) -> Check {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    watches_within(folders, limit.ok().and_then(|text| text.trim().parse().ok()))
}

fn watches_within(folders: u64, limit: Option<u64>) -> Check {
    let name = "inotify watches";
    match limit {
        None => Check::warning(
            name,
            format!("{folders} folders; the limit is not known (no inotify here?)"),
            "changes are found by comparing every minute; nothing to do",
        ),
        Some(limit) if folders.saturating_mul(WATCHES_SHARE) > limit => Check::warning(
            name,
            format!("{folders} folders, and this user may watch {limit}, with all other programs"),
            format!(
                "`sudo sysctl fs.inotify.max_user_watches={}`; without it changes are found by comparing every minute",
                (folders * WATCHES_SHARE).next_power_of_two().max(65_536)
            ),
        ),
        Some(limit) => Check::ok(name, format!("{folders} folders, limit {limit}")),
    }
}

/// How a mount answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Alive,
    Dead,
    Silent,
}

/// Do all mounts of ours answer?
pub(super) fn dead_mounts(mounts: &[Mount]) -> Check {
    judge_mounts(mounts, |mount| ask(&mount.mount_point))
}

fn ask(mount_point: &Path) -> Answer {
    let (tell, told) = mpsc::channel();
    let path = mount_point.to_owned();
    // A hung daemon holds whoever asks: the thread stays behind and ends with the process.
    let question = move || drop(tell.send(fs::metadata(path).map(drop)));
    let asked = std::thread::Builder::new().name("ask".into()).spawn(question);
    if asked.is_err() {
        return Answer::Silent;
    }
    match told.recv_timeout(ANSWER_MAX) {
        Err(_) => Answer::Silent,
        Ok(Err(error)) if is_dead(&error) => Answer::Dead,
        // Another user's mount answers EACCES: someone is there.
        Ok(_) => Answer::Alive,
    }
}

fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

fn judge_mounts(mounts: &[Mount], ask: impl Fn(&Mount) -> Answer) -> Check {
    let answers: Vec<_> =
        mounts.iter().map(|mount| (mount.mount_point.display().to_string(), ask(mount))).collect();
    let those = |wanted| -> Vec<&str> {
        answers.iter().filter(|(_, answer)| *answer == wanted).map(|(path, _)| path.as_str()).collect()
    };
    let (dead, silent) = (those(Answer::Dead), those(Answer::Silent));
    let unmount = |paths: &[&str]| {
        paths.iter().map(|path| format!("`rolloutfs unmount {path}`")).collect::<Vec<_>>().join(", ")
    };
    let name = "mounts";
    if !dead.is_empty() {
        let found = format!("dead, their daemon is gone: {}", dead.join(", "));
        Check::problem(name, found, unmount(&dead))
    } else if !silent.is_empty() {
        let found = format!("no answer within {} s: {}", ANSWER_MAX.as_secs(), silent.join(", "));
        Check::warning(name, found, format!("look into its log; to end it: {}", unmount(&silent)))
    } else {
        let shown: Vec<_> = answers.iter().map(|(path, _)| path.as_str()).collect();
        Check::ok(name, if shown.is_empty() { "none".into() } else { shown.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Ok, Problem, Warning};
    use super::*;

    #[test]
    fn kernels() {
        let table: [(&str, Verdict); 6] = [
            ("6.18.44-generic", Ok),
            ("5.1.0", Ok),
            ("5.0.21", Problem),
            ("4.19.0-27-amd64", Problem),
            ("10.0", Ok),
            ("", Warning),
        ];
        for (release, expected) in table {
            assert_eq!(kernel(release).verdict, expected, "{release}");
        }
    }

    #[test]
    fn devices_and_helpers() {
        let dir = tempfile::tempdir().unwrap();
        let missing = device(&dir.path().join("fuse"));
        assert!(missing.verdict == Problem && missing.remedy.unwrap().contains("modprobe"));
        let there = dir.path().join("there");
        fs::write(&there, "").unwrap();
        assert_eq!(device(&there).verdict, Ok);
        assert_eq!(helper(None, true).verdict, Warning);
        assert_eq!(helper(None, false).verdict, Problem);
        assert!(helper(Some(there.clone()), false).found.contains("not setuid"));
        assert_eq!(helper(Some(there), true).verdict, Ok);
    }

    #[test]
    fn allow_other_is_told() {
        for (text, expected) in [
            (Some("# c\nuser_allow_other\n"), "is set"),
            (Some("#user_allow_other\n"), "is not set"),
            (None, "is not set"),
        ] {
            let check = fuse_conf(text, false);
            assert!(check.verdict == Ok && check.found.contains(expected), "{text:?}: {}", check.found);
        }
    }

    #[test]
    fn watch_limits() {
        for (folders, limit, expected) in [
            (10, Some(8192), Ok),
            (5000, Some(8192), Warning),
            (0, None, Warning),
            (u64::MAX / 4, Some(8192), Warning),
        ] {
            assert_eq!(watches_within(folders, limit).verdict, expected, "{folders} {limit:?}");
        }
    }

    #[test]
    fn dead_mounts_are_a_problem_and_silent_ones_a_warning() {
        let mounts = ["/a", "/b"].map(|path| Mount { mount_point: path.into(), home: "/h".into() });
        let judge =
            |second| {
                judge_mounts(&mounts, |mount| {
                    if mount.mount_point == Path::new("/a") { Answer::Alive } else { second }
                })
            };
        let dead = judge(Answer::Dead);
        assert!(dead.verdict == Problem && dead.remedy.as_deref() == Some("`rolloutfs unmount /b`"));
        assert_eq!(judge(Answer::Silent).verdict, Warning);
        assert_eq!(judge(Answer::Alive), Check::ok("mounts", "/a, /b"));
        assert_eq!(judge_mounts(&[], |_| Answer::Dead).found, "none");
        assert_eq!(ask(Path::new("/")), Answer::Alive);
    }
}
