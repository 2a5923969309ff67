//! What is mounted at a path? `/proc/self/mountinfo`, read without touching the mount itself, which
//! may be dead or slow.
//!
//! May depend on the standard library only.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount, as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's number; reused after an unmount.
    pub id: u64,
    /// The device's major number; 0 for FUSE.
    pub major: u32,
    /// The device's minor number; with 0 for the major it names the bdi and the FUSE connection.
    pub minor: u32,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The type, with its subtype: `fuse.rolloutfs`.
    pub fs_type: String,
    /// The source: for us the home.
    pub source: OsString,
    /// The options of the filesystem, such as `rw,user_id=0,group_id=0`.
    pub super_options: String,
}

impl MountInfo {
    /// Is it a FUSE mount, of whatever program?
    pub fn is_fuse(&self) -> bool {
        matches!(self.fs_type.as_str(), "fuse" | "fuseblk") || self.fs_type.starts_with("fuse.")
    }

    /// Is `other` this mount, as far as numbers can tell?
    pub(super) fn is_same_mount(&self, other: &MountInfo) -> bool {
        (self.id, self.major, self.minor) == (other.id, other.major, other.minor)
    }

    /// A numeric option of the filesystem, such as `user_id`.
    pub(super) fn super_number(&self, name: &str) -> Option<u32> {
        self.super_options.split(',').find_map(|option| {
            let (key, value) = option.split_once('=')?;
            if key == name { value.parse().ok() } else { None }
        })
    }
}

/// What is mounted at `mountpoint`, the topmost where mounts are stacked; `None` for a plain folder,
/// and where `/proc` cannot be read.
pub fn is_mounted(mountpoint: &Path) -> Option<MountInfo> {
    let path = super::mount_point::resolve(mountpoint);
    let table = fs::read("/proc/self/mountinfo").ok()?;
    topmost(&table, &path)
}

/// All mounts, as the kernel lists them; none where `/proc` cannot be read.
pub fn mounts() -> Vec<MountInfo> {
    fs::read("/proc/self/mountinfo").map(|table| parse(&table)).unwrap_or_default()
}

/// The mounts in the text of a mountinfo file.
pub fn parse(table: &[u8]) -> Vec<MountInfo> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// The topmost mount at `path` in the text of a mountinfo file.
fn topmost(table: &[u8], path: &Path) -> Option<MountInfo> {
    // The kernel lists a mount after those it was stacked on.
    parse(table).into_iter().rev().find(|info| info.mount_point == path)
}

/// One line: `id parent major:minor root mountpoint options [tags] - type source super-options`.
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = PathBuf::from(unescape(fields.nth(1)?));
    fields.next()?;
    fields.find(|field| *field == b"-")?;
    let fs_type = unescape(fields.next()?).into_string().ok()?;
    let source = unescape(fields.next()?);
    let super_options = String::from_utf8_lossy(fields.next()?).into_owned();
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(MountInfo { id, major, minor, mount_point, fs_type, source, super_options })
}

/// A decimal number.
fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Decodes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                decoded.push(byte);
                rest = &tail[OCTAL_DIGITS..];
            }
            _ => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(decoded)
}

/// How many digits an escape has.
const OCTAL_DIGITS: usize = 3;

/// The byte that the three octal digits at the start of `text` stand for.
fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.get(..OCTAL_DIGITS)?;
    let value = digits.iter().try_fold(0_u32, |value, digit| match digit {
        b'0'..=b'7' => Some(value * 8 + u32::from(digit - b'0')),
        _ => None,
    })?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:45 / /mnt/a\\040b\\011c\\012d\\134e rw,nosuid,nodev shared:7 master:2 - fuse.rolloutfs /home/u/my\\040codex rw,user_id=1000,group_id=100
41 27 0:46 / /mnt/stack rw - tmpfs tmpfs rw
42 41 0:47 / /mnt/stack ro - fuse.sshfs  rw,user_id=0
broken line
43 27 0:48 / /mnt/\xff rw - fuseblk /dev/sda1 rw
44 27 x:48 / /mnt/bad rw - fuse x rw";

    /// What the table says about a path.
    type Found<'a> = Option<(u64, u32, &'a str, &'a [u8])>;

    /// Path, then what is found: id, minor, type, source.
    #[test]
    fn finds_the_topmost_mount() {
        let table: [(&[u8], Found); 7] = [
            (b"/proc", Some((22, 21, "proc", b"proc"))),
            (b"/", Some((27, 0, "ext4", b"/dev/vda"))),
            (b"/mnt/a b\tc\nd\\e", Some((40, 45, "fuse.rolloutfs", b"/home/u/my codex"))),
            (b"/mnt/stack", Some((42, 47, "fuse.sshfs", b""))),
            (b"/mnt/\xff", Some((43, 48, "fuseblk", b"/dev/sda1"))),
            (b"/mnt/bad", None),
            (b"/mnt", None),
        ];
        for (path, expected) in table {
            let path = Path::new(OsStr::from_bytes(path));
            let found = topmost(TABLE, path);
            let found = found.as_ref().map(|i| (i.id, i.minor, i.fs_type.as_str(), i.source.as_bytes()));
            assert_eq!(found, expected, "{}", path.display());
        }
    }

    #[test]
    fn reads_numbers_of_the_super_options() {
        let info = topmost(TABLE, Path::new("/mnt/a b\tc\nd\\e")).expect("it is in the table");
        assert_eq!(info.super_number("user_id"), Some(1000));
        assert_eq!(info.super_number("group_id"), Some(100));
        assert_eq!(info.super_number("rw"), None);
        assert!(info.is_fuse());
    }

    #[test]
    fn decodes_only_whole_escapes() {
        for (text, expected) in [
            ("a\\040b", "a b"),
            ("\\134040", "\\040"),
            ("\\04", "\\04"),
            ("\\0x0", "\\0x0"),
            ("\\777", "\\777"),
            ("\\", "\\"),
            ("", ""),
        ] {
            assert_eq!(unescape(text.as_bytes()), OsString::from(expected), "{text}");
        }
    }

    #[test]
    fn this_machine_has_proc() {
        assert_eq!(is_mounted(Path::new("/proc/.")).map(|info| info.fs_type).as_deref(), Some("proc"));
    }
}
