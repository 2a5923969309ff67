//! Do others change this folder without this machine's knowing? On a network filesystem inotify tells of this machine's
//! changes alone, on one that a program serves only of those that come through it.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::home::Home;

/// Filesystem types (`statfs(2)`, `f_type`) where changes come that inotify does not see.
const SILENT: [(u32, &str); 18] = [
    (0x0000_6969, "nfs"),
    (0x0000_517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0000_564c, "ncp"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x786f_4256, "vboxsf"),
    (0x7c7c_6673, "prl_fs"),
    (0xbacb_acbc, "vmhgfs"),
];

/// The filesystem of the home, or of one of its two folders, if it is one of those.
pub(super) fn silent_filesystem(home: &Home) -> Option<&'static str> {
    let roots = home.roots();
    let folders = std::iter::once(home.root()).chain(roots.iter().map(|root| root.as_path()));
    folders.filter_map(filesystem_type).find_map(named)
}

fn named(magic: u32) -> Option<&'static str> {
    SILENT.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

fn filesystem_type(path: &Path) -> Option<u32> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut numbers = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a NUL-terminated path, and room for what is written.
    let outcome = unsafe { libc::statfs(path.as_ptr(), numbers.as_mut_ptr()) };
    // SAFETY: the call succeeded, so it wrote all of it.
    (outcome == 0).then(|| unsafe { numbers.assume_init() }.f_type as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_is_not_silent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(filesystem_type(dir.path()).is_some());
        assert_eq!(filesystem_type(Path::new("/no/such/folder")), None);
        assert_eq!(named(filesystem_type(Path::new("/proc")).unwrap()), None);
    }

    /// The numbers of `linux/magic.h`, as the kernel gives them: signed on some machines.
    #[test]
    fn a_network_filesystem_is_known_by_its_number() {
        for (magic, name) in
            [(0x6969_i64, "nfs"), (0xff53_4d42, "cifs"), (-0xac_b2be, "cifs"), (0x6573_5546, "fuse")]
        {
            assert_eq!(named(magic as u32), Some(name), "{magic:x}");
        }
        assert_eq!(named(0xef53), None, "ext4");
    }
}
