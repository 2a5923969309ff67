//! Which errno does each error get, and how loud is it in the log? The one place that decides.
//!
//! No wildcard arms over our own enums: a new variant does not compile until someone chose for it.

use log::Level;

use crate::store::error::StoreError;

use super::error::FsError;

/// The errno of an error, and the level at which it is logged.
pub fn errno(error: &FsError) -> (i32, Level) {
    match error {
        FsError::NoEntry { .. } => (libc::ENOENT, Level::Trace),
        // The number was right once: a client of a share that held it must look it up again.
        FsError::Stale(_) => (libc::ESTALE, Level::Debug),
        FsError::NotADirectory(_) => (libc::ENOTDIR, Level::Debug),
        FsError::IsADirectory(_) => (libc::EISDIR, Level::Debug),
        FsError::NotALink(_) => (libc::EINVAL, Level::Debug),
        FsError::Invalid(_) => (libc::EINVAL, Level::Warn),
        FsError::ReadOnly => (libc::EROFS, Level::Debug),
        FsError::NotEmpty(_) => (libc::ENOTEMPTY, Level::Debug),
        FsError::Store(error) => store_errno(error),
    }
}

fn store_errno(error: &StoreError) -> (i32, Level) {
    match error {
        StoreError::Io { source, .. } => {
            (source.raw_os_error().unwrap_or_else(|| of_kind(source.kind())), Level::Warn)
        }
        StoreError::Index { source, .. } => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => (libc::ENOSPC, Level::Warn),
            Some(rusqlite::ErrorCode::ReadOnly) => (libc::EROFS, Level::Warn),
            _ => (libc::EIO, Level::Error),
        },
        // Its bytes cannot be had; the file is listed in health/unreadable.
        StoreError::Damaged { .. } => (libc::EIO, Level::Warn),
        StoreError::NotAHome { .. } => (libc::EIO, Level::Error),
        StoreError::Busy { .. } => (libc::EBUSY, Level::Warn),
        StoreError::Invalid(_) => (libc::EIO, Level::Warn),
        StoreError::NotFound { .. } => (libc::ENOENT, Level::Debug),
        StoreError::Exists { .. } => (libc::EEXIST, Level::Info),
        // Its text says what to do instead, and a caller of the system sees the number only.
        StoreError::Denied { .. } => (libc::EPERM, Level::Info),
    }
}

/// What an errno is called.
pub(super) fn name(errno: i32) -> &'static str {
    const NAMES: [(i32, &str); 22] = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EIO, "EIO"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENFILE, "ENFILE"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENOTEMPTY, "ENOTEMPTY"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::ESTALE, "ESTALE"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
    ];
    NAMES.iter().find(|(number, _)| *number == errno).map_or("other", |(_, name)| name)
}

/// Of an error that we found ourselves, and not the system.
fn of_kind(kind: std::io::ErrorKind) -> i32 {
    match kind {
        std::io::ErrorKind::NotADirectory => libc::ENOTDIR,
        std::io::ErrorKind::AlreadyExists => libc::EEXIST,
        std::io::ErrorKind::NotFound => libc::ENOENT,
        // A write that was taken in part.
        std::io::ErrorKind::StorageFull => libc::ENOSPC,
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::store::node::NodeNumber;

    #[test]
    fn every_error_has_its_errno() {
        let node = NodeNumber(7);
        let text = || "x".to_owned();
        let io = |errno| StoreError::Io {
            action: "read",
            path: "f".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let index = |code| {
            let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            FsError::from(StoreError::Index { path: "i".into(), source })
        };
        let table: Vec<(FsError, i32)> = vec![
            (FsError::NoEntry { dir: node, name: text() }, libc::ENOENT),
            (FsError::Stale(node), libc::ESTALE),
            (FsError::NotADirectory(node), libc::ENOTDIR),
            (FsError::IsADirectory(node), libc::EISDIR),
            (FsError::NotALink(node), libc::EINVAL),
            (io(libc::EACCES).into(), libc::EACCES),
            (io(libc::ENOSPC).into(), libc::ENOSPC),
            (
                StoreError::Io { action: "read", path: "f".into(), source: io::Error::other("no number") }
                    .into(),
                libc::EIO,
            ),
            (
                StoreError::Io {
                    action: "make",
                    path: "f".into(),
                    source: io::ErrorKind::NotADirectory.into(),
                }
                .into(),
                libc::ENOTDIR,
            ),
            (StoreError::Index { path: "i".into(), source: rusqlite::Error::InvalidQuery }.into(), libc::EIO),
            (index(rusqlite::ffi::SQLITE_FULL), libc::ENOSPC),
            (index(rusqlite::ffi::SQLITE_READONLY), libc::EROFS),
            (index(rusqlite::ffi::SQLITE_IOERR), libc::EIO),
            (
                StoreError::Io {
                    action: "append to",
                    path: "f".into(),
                    source: io::Error::new(io::ErrorKind::StorageFull, "3 of 9 bytes written"),
                }
                .into(),
                libc::ENOSPC,
            ),
            (StoreError::Damaged { path: "f".into(), reason: text() }.into(), libc::EIO),
            (StoreError::NotAHome { path: "h".into(), reason: text() }.into(), libc::EIO),
            (StoreError::Busy { path: "h".into(), holder: text(), remedy: text() }.into(), libc::EBUSY),
            (StoreError::Invalid(text()).into(), libc::EIO),
            (StoreError::NotFound { what: text() }.into(), libc::ENOENT),
            (StoreError::Exists { path: "f".into(), reason: text() }.into(), libc::EEXIST),
            (StoreError::Denied { path: "f".into(), reason: text() }.into(), libc::EPERM),
        ];
        for (error, expected) in table {
            assert_eq!(errno(&error).0, expected, "{error}");
        }
    }
}
