//! Which attributes does a node have?

use std::os::unix::fs::MetadataExt;

use crate::store::content::{Encoding, Located};
use crate::store::node::NodeNumber;
use crate::store::row::DiskStat;

/// What kind of node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// Attributes of a node, in our own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub number: NodeNumber,
    /// The kind.
    pub kind: NodeKind,
    /// Bytes.
    pub size_bytes: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Time of last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of last change of attributes, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// Entries that lead to it; for a directory, two and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Who owns nodes that are not on disk, and what modes they have; and what the mount's options change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ownership {
    /// The home's owner.
    pub home_uid: u32,
    /// The home's group.
    pub home_gid: u32,
    /// The home's permission bits: what is made up of it is as open as it.
    pub home_mode: u32,
    /// `--uid`: everything belongs to this user.
    pub uid: Option<u32>,
    /// `--gid`: everything belongs to this group.
    pub gid: Option<u32>,
    /// `--umask`: these bits are taken from every mode.
    pub umask: Option<u32>,
}

/// Bytes of a block of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

impl Ownership {
    /// From the home's own attributes.
    pub fn of_home(home: &std::fs::Metadata) -> Self {
        Ownership {
            home_uid: home.uid(),
            home_gid: home.gid(),
            home_mode: home.mode() & 0o777,
            ..Ownership::default()
        }
    }

    fn apply(&self, mut attr: Attr) -> Attr {
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        // The bits of a link mean nothing, and are shown as everywhere.
        if attr.kind != NodeKind::Link {
            attr.mode &= !self.umask.unwrap_or(0);
        }
        attr
    }

    /// A node that is made up: it cannot be written, and can be read by whoever can read the home.
    pub fn made_up(
        &self,
        number: NodeNumber,
        kind: NodeKind,
        size_bytes: u64,
        mtime_ns: i64,
        nlink: u32,
    ) -> Attr {
        let mode = match kind {
            NodeKind::Dir => self.home_mode & 0o555,
            NodeKind::File => self.home_mode & 0o444,
            NodeKind::Link => 0o777,
        };
        let blocks = if kind == NodeKind::File { size_bytes.div_ceil(BLOCK_BYTES) } else { 0 };
        let (uid, gid) = (self.home_uid, self.home_gid);
        self.apply(Attr {
            number,
            kind,
            size_bytes,
            blocks,
            mtime_ns,
            ctime_ns: mtime_ns,
            mode,
            nlink,
            uid,
            gid,
        })
    }

    /// A directory that is on disk, with the mtime of the newest change within it.
    pub fn disk_dir(&self, number: NodeNumber, disk: &std::fs::Metadata, mtime_ns: i64, nlink: u32) -> Attr {
        let (kind, mode) = (NodeKind::Dir, disk.mode() & 0o7777);
        let (uid, gid) = (disk.uid(), disk.gid());
        let ctime_ns = mtime_ns;
        self.apply(Attr { number, kind, size_bytes: 0, blocks: 0, mtime_ns, ctime_ns, mode, nlink, uid, gid })
    }

    /// A file as it is on disk; `decoded_bytes` for a compressed one.
    pub fn disk_file(
        &self,
        number: NodeNumber,
        located: &Located,
        decoded_bytes: Option<u64>,
        nlink: u32,
    ) -> Attr {
        let stat = &located.stat;
        let (size_bytes, blocks) = match located.encoding {
            Encoding::Plain => (stat.size(), stat.blocks()),
            Encoding::Zstd => {
                let bytes = decoded_bytes.unwrap_or(0);
                (bytes, bytes.div_ceil(BLOCK_BYTES))
            }
        };
        let mtime_ns = DiskStat::of(stat).mtime_ns;
        let ctime_ns = stat.ctime().saturating_mul(1_000_000_000).saturating_add(stat.ctime_nsec());
        let (mode, uid, gid) = (stat.mode() & 0o7777, stat.uid(), stat.gid());
        self.apply(Attr {
            number,
            kind: NodeKind::File,
            size_bytes,
            blocks,
            mtime_ns,
            ctime_ns,
            mode,
            nlink,
            uid,
            gid,
        })
    }
}
