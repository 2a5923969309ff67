//! Which number does a node have, and where does an entry stand in its directory?
//!
//! Both are computed from names and ids alone, never allocated: the same home gives the same numbers
//! after the index was deleted, and a number is found in the index without memory of a lookup.
//!
//! A node number has 63 bits: `class (5) | slot (10) | hash (48)`.
//!
//! | class | node | hash of |
//! |---|---|---|
//! | 0 | the root (1) and the fixed files | nothing: small constants |
//! | 1 | a rollout, a stray file or a missing thread; slot 0 | its key (thread id, with the rollout id where they differ, else the path), salted on collision |
//! | 2 | a directory (slot and hash: 58 bits) | its path below the mount |
//! | 3 | a version of `threads.jsonl` (58 bits) | the content |
//! | 4 + view | a link to the file of the same hash; the slot holds which of its places, and a tag of the target | — |
//!
//! So a link leads to its file's row without a table of links, and a link whose target changed has another number.

use xxhash_rust::xxh3::xxh3_64;

use super::rollout::RolloutName;

const CLASS_SHIFT: u32 = 58;
const SLOT_SHIFT: u32 = 48;
const HASH_48: u64 = (1 << SLOT_SHIFT) - 1;
const HASH_58: u64 = (1 << CLASS_SHIFT) - 1;
const TAG_BITS: u32 = 7;
const CLASS_FILE: u64 = 1;
const CLASS_DIR: u64 = 2;
const CLASS_VERSION: u64 = 3;
const CLASS_LINK: u64 = 4;
/// The highest view code that a link number can hold.
pub const VIEW_CODE_MAX: u8 = 27;

/// A node number: 63 bits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeNumber(pub u64);

/// What a number says about its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeClass {
    /// The root or one of the fixed files, by its constant.
    Fixed(u64),
    /// A rollout, a stray file or a missing thread.
    File,
    /// A directory.
    Dir,
    /// A version of `threads.jsonl`.
    Version,
    /// A link of a view to a file.
    Link {
        /// The view's code.
        view: u8,
        /// Which of the file's places in that view.
        index: u8,
        /// The file it leads to.
        file: NodeNumber,
    },
}

impl NodeNumber {
    /// The root directory of the mount.
    pub const ROOT: NodeNumber = NodeNumber(1);

    /// The number of a file with this key. `salt` is 0 unless two keys collided.
    pub fn file(key: &[u8], salt: u32) -> Self {
        NodeNumber(CLASS_FILE << CLASS_SHIFT | salted(key, salt) & HASH_48)
    }

    /// The number of the directory at this path below the mount.
    pub fn dir(path: &[u8], salt: u32) -> Self {
        if path.is_empty() {
            return Self::ROOT;
        }
        NodeNumber(CLASS_DIR << CLASS_SHIFT | salted(path, salt) & HASH_58)
    }

    /// The number of a version of `threads.jsonl` with this digest.
    pub fn version(digest: u64) -> Self {
        NodeNumber(CLASS_VERSION << CLASS_SHIFT | digest & HASH_58)
    }

    /// The number of the link at place `index` (below 8) of `view` to `file`; `tag` is what the link's text depends on.
    pub fn link(view: u8, index: u8, file: NodeNumber, tag: &[&[u8]]) -> Self {
        debug_assert!(view <= VIEW_CODE_MAX && index < 8);
        let mut hash = 0u64;
        for part in tag {
            hash = hash.rotate_left(17) ^ xxh3_64(part);
        }
        let slot = u64::from(index) << TAG_BITS | hash & ((1 << TAG_BITS) - 1);
        NodeNumber((CLASS_LINK + u64::from(view)) << CLASS_SHIFT | slot << SLOT_SHIFT | file.0 & HASH_48)
    }

    /// What this number says about its node; None for a number that no node can have.
    pub fn class(self) -> Option<NodeClass> {
        if self.0 == 0 || self.0 >> 63 != 0 {
            return None;
        }
        Some(match self.0 >> CLASS_SHIFT {
            0 => NodeClass::Fixed(self.0),
            CLASS_FILE => NodeClass::File,
            CLASS_DIR => NodeClass::Dir,
            CLASS_VERSION => NodeClass::Version,
            class => NodeClass::Link {
                view: (class - CLASS_LINK) as u8,
                index: (self.0 >> (SLOT_SHIFT + TAG_BITS) & 7) as u8,
                file: NodeNumber(CLASS_FILE << CLASS_SHIFT | self.0 & HASH_48),
            },
        })
    }

    /// As SQLite stores it.
    pub fn to_sql(self) -> i64 {
        self.0 as i64
    }

    /// From SQLite.
    pub fn from_sql(value: i64) -> Self {
        NodeNumber(value as u64)
    }
}

fn salted(key: &[u8], salt: u32) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(salt))
}

/// Bits of the name's hash in a rollout's cookie.
const COOKIE_HASH_BITS: u32 = 29;
/// Set in the cookie of anything that is no rollout: those come after the rollouts.
const COOKIE_OTHER: i64 = 1 << 62;
/// Cookies below this are `.` and `..`.
pub const COOKIE_FIRST: i64 = 3;
/// How many entries of one directory may share a computed cookie; they take the cookies that follow.
pub const COOKIE_RUN_MAX: i64 = 64;

/// Bits of the hash in the cookie of a name that begins with an id.
const COOKIE_ID_HASH_BITS: u32 = 34;
/// How much of an id's time, in milliseconds, is left out: a quarter of an hour and a little.
const COOKIE_ID_TIME_SHIFT: u32 = 20;
/// Length of an id as text.
const ID_TEXT_BYTES: usize = 36;

/// The readdir cookie of an entry, from its name alone: a rollout's stamp then a hash, so that rollouts are
/// listed in the order of time; what begins with an id by the time in it, about, then a hash: neighbours in time are neighbours in
/// the index, so that a million ids are not strewn over all of its pages; anything else by the hash of its name.
pub fn cookie_of(name: &[u8]) -> i64 {
    let hash = xxh3_64(name);
    if let Some(rollout) = RolloutName::parse(name) {
        let seconds = rollout.stamp_seconds().clamp(0, (1 << 33) - 1);
        let low = (hash & ((1 << COOKIE_HASH_BITS) - 1)) as i64;
        return (seconds << COOKIE_HASH_BITS | low).max(COOKIE_FIRST);
    }
    let other = match id_time_ms(name) {
        Some(ms) => {
            ms >> COOKIE_ID_TIME_SHIFT << COOKIE_ID_HASH_BITS | hash & ((1 << COOKIE_ID_HASH_BITS) - 1)
        }
        None => hash,
    };
    COOKIE_OTHER | (other & ((1 << 62) - 1 - COOKIE_RUN_MAX as u64)) as i64
}

/// The first 48 bits of the id that a name begins with: milliseconds since 1970 in those of Codex.
fn id_time_ms(name: &[u8]) -> Option<u64> {
    let id = uuid::Uuid::try_parse_ascii(name.get(..ID_TEXT_BYTES)?).ok()?;
    Some((id.as_u128() >> 80) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_number_names_its_file_view_and_place() {
        let file = NodeNumber::file(b"0198c0de", 0);
        assert_eq!(file.class(), Some(NodeClass::File));
        let link = NodeNumber::link(VIEW_CODE_MAX, 7, file, &[b"by-cwd/a", b"sessions/x"]);
        assert_eq!(link.class(), Some(NodeClass::Link { view: VIEW_CODE_MAX, index: 7, file }));
        assert_ne!(link, NodeNumber::link(VIEW_CODE_MAX, 7, file, &[b"by-cwd/a", b"archived_sessions/x"]));
    }

    #[test]
    fn numbers_are_63_bits_and_classes_are_apart() {
        for number in [NodeNumber::file(b"k", 0), NodeNumber::dir(b"by-id", 0), NodeNumber::version(u64::MAX)]
        {
            assert_eq!(number.0 >> 63, 0);
        }
        assert_eq!(NodeNumber::dir(b"by-id", 0).class(), Some(NodeClass::Dir));
        assert_eq!(NodeNumber::version(7).class(), Some(NodeClass::Version));
        assert_eq!(NodeNumber::ROOT.class(), Some(NodeClass::Fixed(1)));
        assert_eq!(NodeNumber(0).class(), None);
        assert_eq!(NodeNumber(u64::MAX).class(), None);
        assert_ne!(NodeNumber::file(b"k", 0), NodeNumber::file(b"k", 1));
    }

    #[test]
    fn rollouts_are_ordered_by_stamp_and_come_before_other_names() {
        let name = |stamp: &str| format!("rollout-{stamp}-0198c0de-0000-7000-8000-000000000001.jsonl");
        let early = cookie_of(name("2026-01-02T03-04-05").as_bytes());
        let late = cookie_of(name("2026-01-02T03-04-06").as_bytes());
        assert!(COOKIE_FIRST <= early && early < late);
        assert!(late < cookie_of(b"2026") && cookie_of(b"2026") < i64::MAX - COOKIE_RUN_MAX);
        assert_eq!(cookie_of(b"2026"), cookie_of(b"2026"));
    }

    #[test]
    fn ids_are_listed_by_their_time_and_not_in_runs() {
        let cookie = |ms: u64, number: u64| {
            cookie_of(
                format!("{:08x}-{:04x}-7000-8000-{number:012x}.jsonl", ms >> 16, ms & 0xffff).as_bytes(),
            )
        };
        let now = 0x0198_c0de_0000;
        let day = 24 * 3600 * 1000;
        assert!(cookie(now, 1) < cookie(now + day, 2) && cookie(now + day, 2) < cookie(now + 2 * day, 1));
        assert!(COOKIE_OTHER <= cookie(0, 0) && cookie((1 << 48) - 1, 0) < i64::MAX - COOKIE_RUN_MAX);
        // Ids made by hand may all be of one moment.
        let mut all: Vec<_> = (0..20_000).map(|number| cookie(now, number)).collect();
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 19_950, "{}", all.len());
        assert_ne!(cookie_of(b"0198c0de"), cookie_of(b"0198c0df"));
    }
}
