//! Which mounts of ours are there? `/proc/self/mountinfo`, read without touching a mount, which may be dead.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type that our mounts have.
const FS_TYPE: &[u8] = b"fuse.rolloutfs";
/// Digits of the kernel's escapes for space, tab, newline and backslash.
const OCTAL_DIGITS: usize = 3;

/// A mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// The home that it shows.
    pub(crate) home: PathBuf,
}

/// All mounts of ours, as the kernel lists them; none where `/proc` is not there.
pub(crate) fn ours() -> Vec<Mount> {
    fs::read("/proc/self/mountinfo").map(|table| parse(&table)).unwrap_or_default()
}

/// The first mount of this home (a canonical path).
pub(crate) fn of_home(home: &Path) -> Option<Mount> {
    ours().into_iter().find(|mount| mount.home == home)
}

/// The mount of ours at this path.
pub(crate) fn at(path: &Path) -> Option<Mount> {
    // A dead mount cannot be resolved; its absolute path is then what the kernel lists.
    let resolved = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok()?;
    ours().into_iter().rev().find(|mount| mount.mount_point == resolved)
}

/// The mount of ours that a canonical path lies in.
pub(crate) fn containing<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    mounts.iter().find(|mount| path.starts_with(&mount.mount_point))
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// One line: `id parent major:minor root mountpoint options [tags] - type source super-options`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_point = fields.nth(4)?;
    fields.find(|field| *field == b"-")?;
    if fields.next()? != FS_TYPE {
        return None;
    }
    let source = fields.next()?;
    Some(Mount { mount_point: unescape(mount_point).into(), home: unescape(source).into() })
}

fn unescape(field: &[u8]) -> OsString {
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..OCTAL_DIGITS).filter(|_| first == b'\\');
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[OCTAL_DIGITS..] } else { tail };
    }
    OsString::from_vec(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:45 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.rolloutfs /home/u/my\\040codex rw,user_id=1000
41 27 0:46 / /mnt/b rw - fuse.sshfs /home/u rw
broken
42 27 0:47 / /mnt/c\\134 rw - fuse.rolloutfs /h rw";

    #[test]
    fn finds_ours_only() {
        let mount = |at: &str, home: &str| Mount { mount_point: at.into(), home: home.into() };
        let mounts = parse(TABLE);
        assert_eq!(mounts, [mount("/mnt/a b", "/home/u/my codex"), mount("/mnt/c\\", "/h")]);
        assert_eq!(containing(&mounts, Path::new("/mnt/a b/sessions")), mounts.first());
        assert_eq!(containing(&mounts, Path::new("/mnt/a bc")), None);
    }

    #[test]
    fn a_plain_folder_is_no_mount_of_ours() {
        assert_eq!(at(Path::new("/proc")), None);
        assert_eq!(at(Path::new("/no/such/folder")), None);
    }
}
