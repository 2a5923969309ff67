//! Which threads does a sample home have? Every thread's plan follows from the seed and its number
//! alone, so that any thread, and its parent, can be made on any worker. Does no I/O.

use super::Size;
use super::clock::{self, DAY_MS, HOUR_MS};
use super::prng::{Prng, Purpose, thread_id};
use super::text::{self, PROJECTS, Project};

/// With fewer threads than this nothing in the home is odd.
pub(super) const ODD_FROM_THREADS: u64 = 30;
/// From this many threads on, more oddities are strewn in by chance.
const STREWN_FROM_THREADS: u64 = 200;
/// How far back a parent is looked for.
const PARENT_STEPS_MAX: u64 = 200;

/// Something a thread has so that every home has it at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    ZeroByte,
    Torn,
    Glued,
    OldActiveZst,
    NulBytes,
    ArchivedZst,
    InvalidUtf8,
    Crlf,
    /// A line cut in the middle, the next one right behind it.
    CutAndContinued,
    ArchivedZstStreamed,
    /// Bare state markers inside an enveloped file.
    StateMarkers,
    NoHeader,
    HeaderOnly,
    /// The header names another thread than the file.
    ForeignHeader,
    Archived,
    /// The plain file and its `.zst`, as a crash of the compressor leaves them.
    PlainAndZst,
    Review,
    Mcp,
    /// The same file in the archive too.
    DuplicateArchived,
    /// Another file of the same id, under a later stamp.
    DuplicateStamp,
    CopyFork,
    UrlSecret,
    BrokenZst,
    /// Unknown types, blank lines, JSON that is no object.
    UnknownLines,
    Paginated,
    Custom,
    Spawn,
    NestedSpawn,
    ReferenceFork,
    /// A second, two-id file of the thread.
    Reverted,
}

use Role::*;

/// In the order of time, because some need an era: they are spread evenly over the threads.
const ROLES: [Role; 30] = [
    ZeroByte,
    Torn,
    Glued,
    OldActiveZst,
    NulBytes,
    ArchivedZst,
    InvalidUtf8,
    Crlf,
    CutAndContinued,
    ArchivedZstStreamed,
    StateMarkers,
    NoHeader,
    HeaderOnly,
    ForeignHeader,
    Archived,
    PlainAndZst,
    Review,
    Mcp,
    DuplicateArchived,
    DuplicateStamp,
    CopyFork,
    UrlSecret,
    BrokenZst,
    UnknownLines,
    Paginated,
    Custom,
    Spawn,
    NestedSpawn,
    ReferenceFork,
    Reverted,
];

/// What may be strewn into a big home; the first seven into a bare file too.
const STREWN: [Role; 16] = [
    Torn,
    Glued,
    NulBytes,
    InvalidUtf8,
    Crlf,
    CutAndContinued,
    ZeroByte,
    StateMarkers,
    NoHeader,
    HeaderOnly,
    ForeignHeader,
    PlainAndZst,
    DuplicateArchived,
    DuplicateStamp,
    BrokenZst,
    UnknownLines,
];
const STREWN_BARE: u64 = 7;

impl Role {
    /// Whether the bytes are not what Codex would have written.
    pub(super) fn is_damage(self) -> bool {
        STREWN.contains(&self) && !matches!(self, PlainAndZst | DuplicateArchived | DuplicateStamp)
    }
}

/// What kind of thread it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Root,
    /// Own header, then the parent's lines again.
    CopyFork,
    /// A header that names a place in the parent's rollout.
    ReferenceFork,
    /// A sub-agent; `depth` is 1 below a root.
    Spawn {
        depth: u64,
    },
    /// A sub-agent without a parent: "review" and the like.
    Helper(&'static str),
}

/// How lines looked at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Era {
    Bare,
    Enveloped,
    Current,
}

/// How the file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    /// One zstd frame that says how long its content is.
    Zst,
    /// One that does not.
    ZstStreamed,
}

/// Everything about a thread but its text.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) start_ms: i64,
    pub(super) id: String,
    pub(super) era: Era,
    pub(super) is_paginated: bool,
    pub(super) kind: Kind,
    pub(super) role: Option<Role>,
    pub(super) is_archived: bool,
    pub(super) encoding: Encoding,
    pub(super) project: u64,
    /// The wire form of `source`, unless it has to be made from a parent; none where the key is absent.
    pub(super) source: Option<&'static str>,
    /// Where it was gone on with, days later.
    pub(super) resumed_ms: Option<i64>,
    pub(super) target_bytes: usize,
}

/// The threads of one home.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) threads: u64,
    pub(super) seed: u64,
    pub(super) size: Size,
    /// Nothing is compressed.
    pub(super) all_plain: bool,
    roles: Vec<(u64, Role)>,
}

impl Layout {
    pub(super) fn new(threads: u64, seed: u64, size: Size) -> Layout {
        let count = ROLES.len() as u64;
        let slot = |at: usize| (2 * at as u64 + 1) * threads / (2 * count);
        let roles = if threads < ODD_FROM_THREADS {
            Vec::new()
        } else {
            ROLES.iter().enumerate().map(|(at, role)| (slot(at), *role)).collect()
        };
        Layout { threads, seed, size, all_plain: false, roles }
    }

    /// When the thread began: later days have more threads, work days and working hours most.
    fn start_ms(&self, number: u64, prng: &mut Prng) -> i64 {
        const DAYS: u128 = (clock::LAST_DAY - clock::FIRST_DAY + 1) as u128;
        let at = u128::from(number) << 16 | u128::from(prng.below(1 << 16));
        let square = DAYS * DAYS * at / (u128::from(self.threads) << 16);
        let mut day = clock::FIRST_DAY + square.isqrt() as i64;
        let weekday = clock::weekday(day);
        if weekday > 4 && prng.per_mille(800) && day > clock::FIRST_DAY + 2 {
            day -= weekday - 4;
        }
        let in_day = if prng.per_mille(50) {
            prng.below(21 * HOUR_MS as u64)
        } else {
            let half = 5 * HOUR_MS as u64 + HOUR_MS as u64 / 2;
            8 * HOUR_MS as u64 + prng.below(half) + prng.below(half)
        };
        day * DAY_MS + in_day as i64
    }

    fn role(&self, number: u64, era: Era, prng: &mut Prng) -> Option<Role> {
        let is_strewn = prng.per_mille(10) && self.threads >= STREWN_FROM_THREADS;
        let choices = if era == Era::Bare { STREWN_BARE } else { STREWN.len() as u64 };
        let chosen = STREWN[prng.below(choices) as usize];
        match self.roles.binary_search_by_key(&number, |(slot, _)| *slot) {
            Ok(at) => Some(self.roles[at].1),
            Err(_) => is_strewn.then_some(chosen),
        }
    }

    fn kind(era: Era, is_paginated: bool, role: Option<Role>, prng: &mut Prng) -> Kind {
        let helper = *["review", "review", "compact", "memory_consolidation"]
            .get(prng.below(4) as usize)
            .unwrap_or(&"review");
        let chance = prng.below(1000);
        match role {
            Some(Review) => Kind::Helper("review"),
            Some(CopyFork) => Kind::CopyFork,
            Some(ReferenceFork) => Kind::ReferenceFork,
            Some(Spawn) => Kind::Spawn { depth: 1 },
            Some(NestedSpawn) => Kind::Spawn { depth: 2 },
            Some(_) => Kind::Root,
            None if era < Era::Current => Kind::Root,
            None => match chance {
                0..=59 if is_paginated => Kind::ReferenceFork,
                0..=59 => Kind::CopyFork,
                60..=179 => Kind::Spawn { depth: 1 },
                180..=199 => Kind::Spawn { depth: 2 },
                200..=229 => Kind::Helper(helper),
                _ => Kind::Root,
            },
        }
    }

    fn encoding(is_archived: bool, age_days: i64, role: Option<Role>, prng: &mut Prng) -> Encoding {
        let (is_compressed, is_streamed) = (prng.below(1000), prng.per_mille(250));
        let rate = if is_archived && age_days > 14 {
            200
        } else if age_days > 200 {
            15
        } else {
            0
        };
        match role {
            Some(ArchivedZstStreamed) => Encoding::ZstStreamed,
            Some(ArchivedZst | OldActiveZst | BrokenZst) => Encoding::Zst,
            None if is_compressed < rate && is_streamed => Encoding::ZstStreamed,
            None if is_compressed < rate => Encoding::Zst,
            _ => Encoding::Plain,
        }
    }

    fn source(era: Era, kind: Kind, role: Option<Role>, prng: &mut Prng) -> Option<&'static str> {
        let chance = prng.below(100);
        match (kind, role) {
            (Kind::Helper("review"), _) => return Some(r#"{"subagent":"review"}"#),
            (Kind::Helper("compact"), _) => return Some(r#"{"subagent":"compact"}"#),
            (Kind::Helper(_), _) => return Some(r#"{"subagent":"memory_consolidation"}"#),
            (_, Some(Mcp)) => return Some(r#""mcp""#),
            (_, Some(Custom)) => return Some(r#"{"custom":"atlas"}"#),
            _ => {}
        }
        match chance {
            0..=54 => Some(r#""cli""#),
            55..=77 => Some(r#""vscode""#),
            78..=90 => Some(r#""exec""#),
            91 | 92 => Some(r#""mcp""#),
            93..=95 if era == Era::Current => Some(r#"{"custom":"release bot/nightly"}"#),
            96 if era == Era::Current => Some(r#"{"subagent":{"other":"guardian"}}"#),
            97 => Some(r#""unknown""#),
            _ => None,
        }
    }

    /// The thread's plan. A fork or sub-agent for which there is no parent becomes a root only in
    /// [`Layout::with_parent`].
    pub(super) fn plan(&self, number: u64) -> Plan {
        let mut prng = Prng::new(self.seed, number, Purpose::Identity);
        let start_ms = self.start_ms(number, &mut prng);
        let day = start_ms.div_euclid(DAY_MS);
        let id = thread_id(&mut prng, start_ms, day >= clock::ORDERED_ID_DAY);
        let era = match day {
            clock::CURRENT_DAY.. => Era::Current,
            clock::ENVELOPE_DAY.. => Era::Enveloped,
            _ => Era::Bare,
        };
        let mut role = self.role(number, era, &mut prng);
        let by_chance = prng.per_mille(500);
        let is_paginated = day >= clock::PAGINATED_DAY
            && match role {
                Some(Paginated | ReferenceFork | Reverted) => true,
                Some(CopyFork) => false,
                _ => by_chance,
            };
        let is_reverted = prng.per_mille(15) && self.threads >= STREWN_FROM_THREADS;
        if is_reverted && is_paginated && role.is_none() {
            role = Some(Reverted);
        }
        let kind = Layout::kind(era, is_paginated, role, &mut prng);
        let is_archived = prng.per_mille(120) && role.is_none()
            || matches!(role, Some(Archived | ArchivedZst | ArchivedZstStreamed));
        let encoding = Layout::encoding(is_archived, clock::LAST_DAY - day, role, &mut prng);
        let source = Layout::source(era, kind, role, &mut prng);
        let days_later = 1 + prng.below(20) as i64;
        let resumed_ms = (prng.per_mille(80) && role.is_none() && era > Era::Bare)
            .then_some(start_ms + days_later * DAY_MS)
            .filter(|later| *later < clock::LAST_MS);
        let target_bytes = self.size.draw_bytes(&mut prng);
        let project = if role == Some(UrlSecret) { 1 } else { prng.skewed(PROJECTS) };
        Plan {
            number,
            start_ms,
            id,
            era,
            is_paginated,
            kind,
            role,
            is_archived,
            encoding,
            project,
            source,
            resumed_ms,
            target_bytes,
        }
    }

    /// The plan with its parent's, whose project it shares.
    pub(super) fn with_parent(&self, number: u64) -> (Plan, Option<Plan>) {
        let mut plan = self.plan(number);
        if matches!(plan.kind, Kind::Root | Kind::Helper(_)) {
            return (plan, None);
        }
        let parent = self.find_parent(&plan);
        match &parent {
            Some(parent) => plan.project = parent.project,
            None => plan.kind = Kind::Root,
        }
        (plan, parent)
    }

    fn find_parent(&self, child: &Plan) -> Option<Plan> {
        let mut prng = Prng::new(self.seed, child.number, Purpose::Parent);
        let newest = child.number.checked_sub(1)?;
        let begin = newest - prng.below(newest.min(ODD_FROM_THREADS) + 1);
        let further = (begin.saturating_sub(PARENT_STEPS_MAX)..=begin).rev();
        further.chain((begin + 1..=newest).rev()).map(|number| self.plan(number)).find(|candidate| {
            candidate.start_ms < child.start_ms
                && candidate.era == Era::Current
                && !candidate.role.is_some_and(Role::is_damage)
                && match child.kind {
                    Kind::CopyFork => candidate.kind == Kind::Root && !candidate.is_paginated,
                    Kind::ReferenceFork => candidate.kind == Kind::Root && candidate.is_paginated,
                    Kind::Spawn { depth: 2 } => candidate.kind == Kind::Spawn { depth: 1 },
                    _ => candidate.kind == Kind::Root,
                }
        })
    }
}

impl Plan {
    /// The rollout's name, as if it had begun at `start_ms`.
    pub(super) fn file_name_at(&self, start_ms: i64) -> String {
        format!("rollout-{}-{}.jsonl", clock::stamp(start_ms), self.id)
    }

    /// The thread's project.
    pub(super) fn project(&self, seed: u64) -> Project {
        Project::new(seed, self.project)
    }

    /// Days since 1970.
    pub(super) fn day(&self) -> i64 {
        self.start_ms.div_euclid(DAY_MS)
    }

    /// Whether the thread speaks of the needle.
    pub(super) fn has_needle(&self) -> bool {
        self.number % text::NEEDLE_EVERY == 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(layout: &Layout, role: Role) -> Option<u64> {
        layout.roles.iter().find(|(_, other)| *other == role).map(|(number, _)| *number)
    }

    #[test]
    fn roles_have_a_holder_each_and_its_era() {
        for threads in [30, 31, 57, 200, 5000] {
            for seed in 0..20 {
                let layout = Layout::new(threads, seed, Size::Small);
                let holders: std::collections::HashSet<u64> =
                    ROLES.iter().filter_map(|role| holder(&layout, *role)).collect();
                assert_eq!(holders.len(), ROLES.len(), "{threads} threads");
                for role in ROLES {
                    let number = holder(&layout, role).unwrap_or(0);
                    let (plan, parent) = layout.with_parent(number);
                    assert_eq!(plan.role, Some(role));
                    let needs_parent = matches!(role, CopyFork | ReferenceFork | Spawn | NestedSpawn);
                    assert_eq!(parent.is_some(), needs_parent, "{role:?}, {threads} threads, seed {seed}");
                    if matches!(role, Paginated | ReferenceFork | Reverted) {
                        assert!(plan.is_paginated, "{role:?}, {threads} threads, seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn times_lie_in_the_two_years_and_grow() {
        let layout = Layout::new(4000, 9, Size::Small);
        let starts: Vec<i64> = (0..4000).map(|number| layout.plan(number).start_ms).collect();
        assert!(starts.iter().all(|start| (clock::FIRST_DAY * DAY_MS..clock::LAST_MS).contains(start)));
        let middle = (clock::FIRST_DAY + clock::LAST_DAY) / 2 * DAY_MS;
        let late = starts.iter().filter(|start| **start > middle).count();
        assert!((2800..3200).contains(&late), "three quarters are of the second year, here {late}");
    }

    #[test]
    fn ids_are_uuids() {
        let layout = Layout::new(500, 3, Size::Small);
        for number in [0, 100, 400, 499] {
            let plan = layout.plan(number);
            let id = uuid::Uuid::parse_str(&plan.id).map(|id| (id.get_version_num(), id.to_string()));
            let version = if plan.day() >= clock::ORDERED_ID_DAY { 7 } else { 4 };
            assert_eq!(id.ok(), Some((version, plan.id.clone())));
        }
    }
}
