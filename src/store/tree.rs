//! How do the directories of the tree follow the rows? The one place that writes `dirs` and `entries`.
//!
//! The hard parts, and who answers them:
//! 1. a directory exists while something is in it (`kept` ones always), up to the root: `ensure`, `settle`;
//! 2. its mtime is the newest change within it, also after the newest left: `bump`, `recompute`;
//! 3. two names may have one computed cookie: the later takes the next free one: `add`;
//! 4. a batch touches few directories many times: each is loaded once, kept here and written once by `settle`.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::xxh3_64;

use super::change::Change;
use super::node::{COOKIE_RUN_MAX, NodeNumber, cookie_of};
use super::placing::Place;

/// The directories that a batch touched. `settle` must be called before the batch is committed.
pub(super) struct Tree<'c> {
    connection: &'c Connection,
    dirs: HashMap<Vec<u8>, Dir>,
    changes: Vec<Change>,
}

struct Dir {
    number: NodeNumber,
    parent: NodeNumber,
    cookie: i64,
    mtime_ns: i64,
    entries: i64,
    subdirs: i64,
    kept: bool,
    stored: bool,
    changed: bool,
    /// The newest member may have left: look for the newest that stayed.
    recompute: bool,
    digest: i64,
    disk_mtime_ns: Option<i64>,
}

/// The path of the directory that holds `path`, and the name there; the root holds itself.
pub(super) fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A directory's contribution to its parent's digest, or a file's to its directory's.
fn digest_of(name: &[u8], number: NodeNumber) -> i64 {
    (xxh3_64(name) ^ number.0.rotate_left(31)) as i64
}

impl<'c> Tree<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Tree { connection, dirs: HashMap::new(), changes: Vec::new() }
    }

    /// Loads the directory at `path`, making it and those above it where they are not there.
    fn ensure(&mut self, path: &[u8]) -> rusqlite::Result<&mut Dir> {
        if !self.dirs.contains_key(path) {
            let dir = match self.load(path)? {
                Some(dir) => dir,
                None => self.make(path)?,
            };
            self.dirs.insert(path.to_owned(), dir);
        }
        // Just inserted, or there before.
        Ok(self.dirs.get_mut(path).expect("the directory was loaded above"))
    }

    fn load(&mut self, path: &[u8]) -> rusqlite::Result<Option<Dir>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, parent, cookie, mtime_ns, entries, subdirs, kept, disk_mtime_ns, digest FROM dirs WHERE number = ?1 AND path = ?2",
        )?;
        for salt in 0..SALT_MAX {
            let number = NodeNumber::dir(path, salt);
            let found = statement
                .query_row(params![number.to_sql(), path], |row| {
                    Ok(Dir {
                        number: NodeNumber::from_sql(row.get(0)?),
                        parent: NodeNumber::from_sql(row.get(1)?),
                        cookie: row.get(2)?,
                        mtime_ns: row.get(3)?,
                        entries: row.get(4)?,
                        subdirs: row.get(5)?,
                        kept: row.get(6)?,
                        stored: true,
                        changed: false,
                        recompute: row.get::<_, i64>(4)? + row.get::<_, i64>(5)? == 0,
                        disk_mtime_ns: row.get(7)?,
                        digest: row.get(8)?,
                    })
                })
                .optional()?;
            if found.is_some() || !self.number_taken(number)? {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn number_taken(&self, number: NodeNumber) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM dirs WHERE number = ?1")?;
        Ok(statement.exists([number.to_sql()])?
            || self.dirs.values().any(|dir| dir.number == number && !dir.stored))
    }

    fn make(&mut self, path: &[u8]) -> rusqlite::Result<Dir> {
        let mut salt = 0;
        while self.number_taken(NodeNumber::dir(path, salt))? {
            salt += 1;
        }
        let number = NodeNumber::dir(path, salt);
        let (parent_path, name) = split_path(path);
        let mut parent = number;
        let mut cookie = 0;
        if !path.is_empty() {
            let holder = self.ensure(parent_path)?;
            holder.subdirs += 1;
            holder.changed = true;
            holder.digest = holder.digest.wrapping_add(digest_of(name, number));
            parent = holder.number;
            cookie = self.free_dir_cookie(parent, cookie_of(name))?;
            self.changes.push(Change::Entry { dir: parent, name: name.to_owned() });
        }
        Ok(Dir {
            number,
            parent,
            cookie,
            // Whatever comes is newer: files may be from before 1970.
            mtime_ns: i64::MIN,
            entries: 0,
            subdirs: 0,
            kept: path.is_empty(),
            stored: false,
            changed: true,
            recompute: false,
            digest: 0,
            disk_mtime_ns: None,
        })
    }

    fn free_dir_cookie(&self, parent: NodeNumber, computed: i64) -> rusqlite::Result<i64> {
        let mut taken =
            self.connection.prepare_cached("SELECT 1 FROM dirs WHERE parent = ?1 AND cookie = ?2")?;
        let mut cookie = computed;
        while taken.exists(params![parent.to_sql(), cookie])?
            || self.dirs.values().any(|dir| dir.parent == parent && dir.cookie == cookie && !dir.stored)
        {
            cookie += 1;
        }
        Ok(cookie)
    }

    /// A directory that exists though it is empty: a view's root, or one on disk with its mtime.
    pub(super) fn keep(&mut self, path: &[u8], disk_mtime_ns: Option<i64>) -> rusqlite::Result<NodeNumber> {
        let dir = self.ensure(path)?;
        let number = dir.number;
        if !dir.kept || dir.disk_mtime_ns != disk_mtime_ns {
            dir.kept = true;
            dir.disk_mtime_ns = disk_mtime_ns;
            dir.changed = true;
        }
        Ok(number)
    }

    /// A directory that was seen on disk, but not listed yet.
    pub(super) fn keep_new(&mut self, path: &[u8]) -> rusqlite::Result<()> {
        let dir = self.ensure(path)?;
        if !dir.kept {
            dir.kept = true;
            dir.changed = true;
        }
        Ok(())
    }

    /// A directory on disk got another mtime. One that is not known is left to its listing.
    pub(super) fn set_disk_mtime(&mut self, path: &[u8], mtime_ns: i64) -> rusqlite::Result<()> {
        if !self.dirs.contains_key(path) {
            let Some(dir) = self.load(path)? else { return Ok(()) };
            self.dirs.insert(path.to_owned(), dir);
        }
        match self.dirs.get_mut(path) {
            Some(dir) if dir.kept && dir.disk_mtime_ns != Some(mtime_ns) => {
                dir.disk_mtime_ns = Some(mtime_ns);
                dir.changed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The opposite of `keep`: the directory goes when nothing is in it.
    pub(super) fn unkeep(&mut self, path: &[u8]) -> rusqlite::Result<()> {
        let dir = self.ensure(path)?;
        dir.kept = false;
        dir.changed = true;
        Ok(())
    }

    /// The number of a directory that exists or is made.
    pub(super) fn number(&mut self, path: &[u8]) -> rusqlite::Result<NodeNumber> {
        Ok(self.ensure(path)?.number)
    }

    /// Puts a file, or a link to it, at a place.
    pub(super) fn add(
        &mut self,
        place: &Place,
        row: i64,
        number: NodeNumber,
        mtime_ns: i64,
    ) -> rusqlite::Result<()> {
        let dir = self.ensure(&place.dir)?;
        dir.entries += 1;
        dir.changed = true;
        dir.digest = dir.digest.wrapping_add(digest_of(&place.name, number));
        let dir_number = dir.number;
        let slot = i64::from(place.view.0) * 8 + i64::from(place.index);
        let computed = cookie_of(&place.name);
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO entries(dir, cookie, row, slot) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?;
        for cookie in computed..computed + COOKIE_RUN_MAX {
            if insert.execute(params![dir_number.to_sql(), cookie, row, slot])? == 1 {
                self.changes.push(Change::Entry { dir: dir_number, name: place.name.clone() });
                return self.bump(&place.dir, mtime_ns);
            }
        }
        // 64 names with one 62-bit hash, or 64 rollouts of one second with one 29-bit hash: not by chance.
        log::error!(
            "{}: too many names share a cookie; {} is not listed",
            lossy(&place.dir),
            lossy(&place.name)
        );
        let dir = self.ensure(&place.dir)?;
        dir.entries -= 1;
        dir.digest = dir.digest.wrapping_sub(digest_of(&place.name, number));
        Ok(())
    }

    /// Takes a file, or a link to it, from a place.
    pub(super) fn remove(
        &mut self,
        place: &Place,
        row: i64,
        number: NodeNumber,
        mtime_ns: i64,
    ) -> rusqlite::Result<()> {
        let dir_number = self.ensure(&place.dir)?.number;
        let computed = cookie_of(&place.name);
        let slot = i64::from(place.view.0) * 8 + i64::from(place.index);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM entries WHERE dir = ?1 AND cookie >= ?2 AND cookie < ?3 AND row = ?4 AND slot = ?5",
        )?;
        let gone =
            delete.execute(params![dir_number.to_sql(), computed, computed + COOKIE_RUN_MAX, row, slot])?;
        if gone == 0 {
            return Ok(());
        }
        let dir = self.ensure(&place.dir)?;
        dir.entries -= 1;
        dir.changed = true;
        dir.digest = dir.digest.wrapping_sub(digest_of(&place.name, number));
        self.changes.push(Change::Entry { dir: dir_number, name: place.name.clone() });
        self.outdate(&place.dir, mtime_ns)
    }

    /// A file that stays at its place changed its mtime, or its number.
    pub(super) fn touch(
        &mut self,
        place: &Place,
        numbers: (NodeNumber, NodeNumber),
        mtimes_ns: (i64, i64),
    ) -> rusqlite::Result<()> {
        if numbers.0 != numbers.1 {
            let dir = self.ensure(&place.dir)?;
            let step = digest_of(&place.name, numbers.1).wrapping_sub(digest_of(&place.name, numbers.0));
            dir.digest = dir.digest.wrapping_add(step);
            dir.changed = true;
            let change = Change::Entry { dir: dir.number, name: place.name.clone() };
            self.changes.push(change);
        }
        if mtimes_ns.0 != mtimes_ns.1 {
            // A link shows the time of its file.
            self.changes.push(Change::Node { number: numbers.1 });
        }
        if mtimes_ns.1 < mtimes_ns.0 {
            self.outdate(&place.dir, mtimes_ns.0)?;
        }
        self.bump(&place.dir, mtimes_ns.1)
    }

    fn bump(&mut self, path: &[u8], mtime_ns: i64) -> rusqlite::Result<()> {
        let mut path = path;
        loop {
            let dir = self.ensure(path)?;
            if dir.mtime_ns < mtime_ns {
                dir.mtime_ns = mtime_ns;
                dir.changed = true;
            } else {
                return Ok(());
            }
            if path.is_empty() {
                return Ok(());
            }
            path = split_path(path).0;
        }
    }

    /// Something with this mtime left: the directories whose newest it was look again in `settle`.
    fn outdate(&mut self, path: &[u8], mtime_ns: i64) -> rusqlite::Result<()> {
        let mut path = path;
        loop {
            let dir = self.ensure(path)?;
            if dir.mtime_ns <= mtime_ns {
                dir.recompute = true;
            }
            if path.is_empty() {
                return Ok(());
            }
            path = split_path(path).0;
        }
    }

    /// Writes every touched directory, deepest first, removing the empty ones.
    pub(super) fn settle(mut self) -> rusqlite::Result<Vec<Change>> {
        let deepest = self.dirs.keys().map(|path| depth(path)).max().unwrap_or(0);
        for level in (0..=deepest).rev() {
            let mut paths: Vec<_> = self.dirs.keys().filter(|path| depth(path) == level).cloned().collect();
            paths.sort();
            for path in paths {
                self.settle_dir(&path)?;
            }
        }
        Ok(self.changes)
    }

    fn settle_dir(&mut self, path: &[u8]) -> rusqlite::Result<()> {
        // The path is a key of the map; a parent is settled after its children.
        let Some(mut dir) = self.dirs.remove(path) else { return Ok(()) };
        let empty = dir.entries == 0 && dir.subdirs == 0;
        if empty && !dir.kept {
            return self.drop_dir(path, &dir);
        }
        let before_ns = dir.mtime_ns;
        if empty {
            dir.mtime_ns = dir.disk_mtime_ns.unwrap_or(0);
        } else if dir.recompute {
            dir.mtime_ns = self.newest_within(path, &dir)?;
        }
        if dir.mtime_ns != before_ns {
            dir.changed = true;
        }
        if dir.changed {
            self.store(path, &dir)?;
            self.changes.push(Change::Node { number: dir.number });
        }
        if !path.is_empty() {
            let parent_path = split_path(path).0;
            if dir.mtime_ns < before_ns {
                self.outdate(parent_path, before_ns)?;
            }
            self.bump(parent_path, dir.mtime_ns)?;
        }
        Ok(())
    }

    fn drop_dir(&mut self, path: &[u8], dir: &Dir) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM dirs WHERE number = ?1")?
            .execute([dir.number.to_sql()])?;
        let (parent_path, name) = split_path(path);
        let holder = self.ensure(parent_path)?;
        holder.subdirs -= 1;
        holder.changed = true;
        holder.recompute = true;
        holder.digest = holder.digest.wrapping_sub(digest_of(name, dir.number));
        let change = Change::Entry { dir: holder.number, name: name.to_owned() };
        self.changes.push(change);
        self.changes.push(Change::Node { number: dir.number });
        Ok(())
    }

    fn newest_within(&self, path: &[u8], dir: &Dir) -> rusqlite::Result<i64> {
        // The flat folders of everything: their newest is the newest of all, which has an index.
        let files_ns = match path {
            b"by-id" => {
                let current = "SELECT mtime_ns FROM rollouts WHERE kind = 0 AND archived = ?1 AND current = 1 \
                     ORDER BY mtime_ns DESC LIMIT 1";
                self.newest(current, 0)?.max(self.newest(current, 1)?)
            }
            // Rollouts and stray files.
            b"archived_sessions" => {
                let archived = "SELECT max(mtime_ns) FROM rollouts WHERE kind = ?1 AND archived = 1";
                self.newest(archived, 0)?.max(self.newest(archived, 1)?)
            }
            _ => self.newest(
                "SELECT max(r.mtime_ns) FROM entries e JOIN rollouts r ON r.row = e.row WHERE e.dir = ?1",
                dir.number.to_sql(),
            )?,
        };
        let dirs_ns = self.newest(
            "SELECT max(mtime_ns) FROM dirs WHERE parent = ?1 AND number != ?1",
            dir.number.to_sql(),
        )?;
        // Of nothing at all: as an empty folder.
        Ok(files_ns.max(dirs_ns).unwrap_or(dir.disk_mtime_ns.unwrap_or(0)))
    }

    /// The one time that a query with one parameter answers, if there is any.
    fn newest(&self, sql: &str, parameter: i64) -> rusqlite::Result<Option<i64>> {
        let newest: Option<Option<i64>> =
            self.connection.prepare_cached(sql)?.query_row([parameter], |row| row.get(0)).optional()?;
        Ok(newest.flatten())
    }

    fn store(&self, path: &[u8], dir: &Dir) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO dirs(number, path, parent, name, cookie, mtime_ns, entries, subdirs, kept, disk_mtime_ns, digest) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT(number) DO UPDATE SET \
             mtime_ns = ?6, entries = ?7, subdirs = ?8, kept = ?9, disk_mtime_ns = ?10, digest = ?11",
        )?;
        statement.execute(params![
            dir.number.to_sql(),
            path,
            dir.parent.to_sql(),
            split_path(path).1,
            dir.cookie,
            dir.mtime_ns,
            dir.entries,
            dir.subdirs,
            dir.kept,
            dir.disk_mtime_ns,
            dir.digest
        ])?;
        Ok(())
    }
}

/// How often a directory's number may collide.
const SALT_MAX: u32 = 8;

fn depth(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { 1 + path.iter().filter(|&&byte| byte == b'/').count() }
}

pub(super) fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
