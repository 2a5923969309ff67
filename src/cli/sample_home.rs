//! How does one get a Codex home to try things on? `rolloutfs sample-home` makes one: two years of
//! threads of all eras, with the names, forks and damage that real homes have. The same options give the
//! same bytes, names and times (compressed files: with the same zstd library). May depend on the store's
//! error type; reads no clock.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::store::error::{Result, StoreError};

mod clock;
mod content;
mod damage;
mod disk;
mod extras;
mod header;
mod json;
mod lines;
mod names;
mod plan;
mod prng;
mod text;
mod thread;

pub use extras::HOME_SECRET;
pub use text::URL_SECRET;

/// Threads that a worker takes at once.
const BATCH_THREADS: u64 = 64;
/// More workers than this are not started.
const JOBS_MAX: usize = 64;
/// More threads than this are refused: a mistyped number should not fill a disk.
const THREADS_MAX: u64 = 10_000_000;

/// How much is said in each thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// About 1 KB and a handful of lines.
    Tiny,
    /// Half of the threads below 4 KB.
    #[default]
    Small,
    /// Log-normal as in real homes: a mean of about 250 KB, some of several MB.
    Realistic,
}

impl Size {
    /// A planned size for one thread.
    fn draw_bytes(self, prng: &mut prng::Prng) -> usize {
        // Equally likely steps of log-normal distributions, in bytes and in KB.
        const SMALL: [u64; 16] =
            [700, 900, 1100, 1300, 1500, 1700, 1900, 2200, 2500, 2900, 3400, 4000, 4800, 6000, 8500, 15_000];
        const REALISTIC: [u64; 32] = [
            3, 7, 10, 13, 16, 20, 23, 27, 32, 36, 42, 47, 53, 60, 68, 76, 86, 97, 109, 123, 139, 158, 180,
            207, 240, 282, 335, 408, 512, 679, 1001, 5000,
        ];
        match self {
            Size::Tiny => 0,
            Size::Small => prng.quantile(&SMALL) as usize,
            Size::Realistic => prng.quantile(&REALISTIC) as usize * 1000,
        }
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// How many threads. From 30 on every oddity is there at least once; below, none is.
    pub threads: u64,
    /// Which home of many: another seed gives other threads.
    pub seed: u64,
    /// How large the threads are.
    pub size: Size,
    /// Nothing is compressed: what lies on disk is what a mount shows.
    pub all_plain: bool,
    /// How many workers; 0 for one a processor.
    pub jobs: usize,
}

/// What was made. Counts are of files on disk, unless they say threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Threads asked for; each has at least one rollout file.
    pub threads: u64,
    /// Files with a legal rollout name, copies included.
    pub rollouts: u64,
    /// All regular files of the home.
    pub files: u64,
    /// Their sizes as they are on disk.
    pub bytes: u64,
    /// Rollout bytes as Codex reads them: decompressed.
    pub decoded_bytes: u64,
    /// Rollouts below `archived_sessions`.
    pub archived: u64,
    /// Rollouts that end in `.jsonl.zst`.
    pub compressed: u64,
    /// Threads with a name in `session_index.jsonl`.
    pub named: u64,
    /// Threads that had another name before.
    pub renamed: u64,
    /// Threads forked from another one, by copy or by reference.
    pub forks: u64,
    /// Threads whose source says sub-agent of any kind.
    pub subagents: u64,
    /// Threads of the bare era.
    pub bare: u64,
    /// Threads with numbered lines.
    pub paginated: u64,
    /// Threads that went on in a second, two-id file.
    pub reverted: u64,
    /// Files that are a second one of their thread: copies, plain beside `.zst`.
    pub duplicates: u64,
    /// Rollouts without a byte.
    pub empty: u64,
    /// Rollouts whose last line is cut.
    pub torn: u64,
    /// Rollouts with bytes within that are no JSON line: glued, cut, NULs, invalid UTF-8.
    pub malformed: u64,
    /// Compressed rollouts that do not decode.
    pub broken_zst: u64,
    /// Rollouts whose first line is no header of their thread.
    pub wrong_header: u64,
    /// Files between the rollouts that are none.
    pub stray: u64,
    /// Rollouts that speak of the `needle`.
    pub needles: u64,
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        let Summary {
            threads,
            rollouts,
            files,
            bytes,
            decoded_bytes,
            archived,
            compressed,
            named,
            renamed,
            forks,
            subagents,
            bare,
            paginated,
            reverted,
            duplicates,
            empty,
            torn,
            malformed,
            broken_zst,
            wrong_header,
            stray,
            needles,
        } = other;
        for (sum, more) in [
            (&mut self.threads, threads),
            (&mut self.rollouts, rollouts),
            (&mut self.files, files),
            (&mut self.bytes, bytes),
            (&mut self.decoded_bytes, decoded_bytes),
            (&mut self.archived, archived),
            (&mut self.compressed, compressed),
            (&mut self.named, named),
            (&mut self.renamed, renamed),
            (&mut self.forks, forks),
            (&mut self.subagents, subagents),
            (&mut self.bare, bare),
            (&mut self.paginated, paginated),
            (&mut self.reverted, reverted),
            (&mut self.duplicates, duplicates),
            (&mut self.empty, empty),
            (&mut self.torn, torn),
            (&mut self.malformed, malformed),
            (&mut self.broken_zst, broken_zst),
            (&mut self.wrong_header, wrong_header),
            (&mut self.stray, stray),
            (&mut self.needles, needles),
        ] {
            *sum += more;
        }
    }
}

fn check_target(dir: &Path, options: &SampleOptions) -> Result<()> {
    if options.threads > THREADS_MAX {
        return Err(StoreError::Invalid(format!(
            "{} threads are too many: at most {THREADS_MAX}",
            options.threads
        )));
    }
    let refuse = |what: &str| {
        let shown = dir.display();
        Err(StoreError::Invalid(format!(
            "{shown} {what}: a sample home needs a new or an empty folder; nothing was changed"
        )))
    };
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => refuse("is not empty"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => refuse("is not a folder"),
        Err(error) => Err(StoreError::io("read", dir)(error)),
    }
}

/// What the workers share.
struct Shared<'a> {
    dir: &'a Path,
    layout: &'a plan::Layout,
    progress: &'a (dyn Fn(u64) + Sync),
    next: AtomicU64,
    done: AtomicU64,
    has_failed: AtomicBool,
    finished: Mutex<(Summary, Vec<(PathBuf, i64)>)>,
}

impl Shared<'_> {
    /// Takes batches until there are none, or another worker failed.
    fn work(&self) -> Result<()> {
        let mut disk = disk::Disk::new(self.dir);
        let mut summary = Summary::default();
        while !self.has_failed.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(BATCH_THREADS, Ordering::Relaxed);
            let end = (first + BATCH_THREADS).min(self.layout.threads);
            if first >= end {
                break;
            }
            for number in first..end {
                thread::write(&mut disk, self.layout, number, &mut summary).inspect_err(|_| {
                    self.has_failed.store(true, Ordering::Relaxed);
                })?;
            }
            let done = self.done.fetch_add(end - first, Ordering::Relaxed) + end - first;
            (self.progress)(done);
        }
        self.finish(disk, &mut summary);
        Ok(())
    }

    /// Adds what one worker made to what all made.
    fn finish(&self, disk: disk::Disk<'_>, summary: &mut Summary) {
        summary.files += disk.files;
        summary.bytes += disk.bytes;
        // Sums and paths are whole at any time, so a poisoned lock has good content.
        let mut finished = self.finished.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        finished.0.add(summary);
        finished.1.extend(disk.into_newest_ms());
    }

    /// The files that are of no thread.
    fn write_rest(&self) -> Result<()> {
        let mut disk = disk::Disk::new(self.dir);
        disk.folder("sessions", clock::FIRST_DAY * clock::DAY_MS)?;
        disk.folder("archived_sessions", clock::FIRST_DAY * clock::DAY_MS)?;
        let stray = extras::write_strays(&mut disk, self.layout)?;
        extras::write_private(&mut disk)?;
        let index = names::session_index(self.layout);
        disk.file("", "session_index.jsonl", index.text.as_bytes(), index.last_ms)?;
        let mut summary = Summary { named: index.named, renamed: index.renamed, stray, ..Summary::default() };
        self.finish(disk, &mut summary);
        Ok(())
    }
}

/// Makes a sample home in `dir`, which must not exist or be empty. `progress` hears how many threads are
/// done, from any worker, in steps.
///
/// # Errors
/// `Invalid` if `dir` is taken, `Io` if it cannot be written; then a part of the home may be there.
pub fn generate(dir: &Path, options: &SampleOptions, progress: &(dyn Fn(u64) + Sync)) -> Result<Summary> {
    check_target(dir, options)?;
    let mut layout = plan::Layout::new(options.threads, options.seed, options.size);
    layout.all_plain = options.all_plain;
    let shared = Shared {
        dir,
        layout: &layout,
        progress,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        has_failed: AtomicBool::new(false),
        finished: Mutex::default(),
    };
    let jobs = match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    shared.write_rest()?;
    std::thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for number in 1..jobs.min(JOBS_MAX) {
            let builder = std::thread::Builder::new().name(format!("sample-{number}"));
            // Without another thread the work is done by those there are.
            workers.extend(builder.spawn_scoped(scope, || shared.work()));
        }
        let mut result = shared.work();
        for worker in workers {
            let worked = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(worked);
        }
        result
    })?;
    let (summary, folders) = shared.finished.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    disk::finish_folders(dir, folders.into_iter())?;
    Ok(summary)
}

/// Make a home with threads of every kind, to try things on and to measure
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs sample-home /tmp/home                               1,000 threads
  rolloutfs sample-home /tmp/big --threads 100000 --size tiny   for measuring")]
pub struct SampleHomeArgs {
    /// Where to make it: a folder that does not exist yet, or an empty one
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How many threads
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub threads: u64,
    /// Which home of many: the same seed makes the same home
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// How large the threads are
    #[arg(long, value_enum, default_value_t = Size::Small)]
    pub size: Size,
    /// Compress nothing, so that the home and a mount of it hold the same files
    #[arg(long)]
    pub plain: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

fn describe(summary: &Summary, dir: &Path) -> String {
    let Summary { threads, rollouts, files, archived, compressed, named, forks, subagents, bare, .. } =
        summary;
    let odd = summary.torn + summary.malformed + summary.empty + summary.broken_zst + summary.wrong_header;
    let megabytes = summary.bytes as f64 / 1e6;
    format!(
        "{threads} threads in {rollouts} rollouts at {}\n\
         {files} files, {megabytes:.1} MB; {archived} archived, {compressed} compressed, {bare} bare\n\
         {named} named, {forks} forks, {subagents} sub-agents, {odd} damaged, {} duplicates, {} strays\n",
        dir.display(),
        summary.duplicates,
        summary.stray
    )
}

/// Runs `rolloutfs sample-home`: makes the home, shows progress on a terminal's standard error, and prints
/// a summary.
///
/// # Errors
/// Those of [`generate`], and `Io` if standard output cannot be written; a closed pipe is no error.
pub fn run(args: &SampleHomeArgs) -> Result<(), StoreError> {
    use std::io::Write;
    let options = SampleOptions {
        threads: args.threads,
        seed: args.seed,
        size: args.size,
        all_plain: args.plain,
        jobs: 0,
    };
    let bar = indicatif::ProgressBar::new(args.threads);
    let made = generate(&args.dir, &options, &|done| bar.set_position(done));
    bar.finish_and_clear();
    let summary = made?;
    let text = if args.json {
        let json = serde_json::to_string(&summary);
        json.map_err(|error| StoreError::Invalid(format!("cannot write the summary: {error}")))? + "\n"
    } else {
        describe(&summary, &args.dir)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(StoreError::io("write to", Path::new("standard output"))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};
    use std::os::unix::fs::MetadataExt;

    /// Mode, mtime, content; a folder has none.
    type Node = (u32, (i64, i64), Option<Vec<u8>>);
    /// By path below the root.
    type Tree = BTreeMap<PathBuf, Node>;

    fn walk(root: &Path, folder: &Path, tree: &mut Tree) {
        for entry in std::fs::read_dir(folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let status = entry.metadata().expect("a file just listed");
            let content = status.is_file().then(|| std::fs::read(&path).expect("a readable file"));
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            if status.is_dir() {
                walk(root, &path, tree);
            }
            tree.insert(name, (status.mode(), (status.mtime(), status.mtime_nsec()), content));
        }
    }

    fn make(threads: u64, seed: u64, size: Size, jobs: usize) -> (Summary, Tree) {
        let home = tempfile::tempdir().expect("a temporary folder");
        let root = home.path().join("new/home");
        let options = SampleOptions { threads, seed, size, all_plain: false, jobs };
        let summary = generate(&root, &options, &|_| ()).expect("a home in a new folder");
        let mut tree = Tree::new();
        walk(&root, &root, &mut tree);
        (summary, tree)
    }

    /// A rollout by name: where, its thread's id, decoded content (none if it does not decode).
    struct Found {
        is_archived: bool,
        is_compressed: bool,
        is_two_id: bool,
        stem: String,
        thread_id: String,
        content: Option<Vec<u8>>,
    }

    fn rollouts(tree: &Tree) -> Vec<Found> {
        let parse = |(path, (_, _, content)): (&PathBuf, &Node)| {
            let content = content.as_ref()?;
            let name = path.file_name()?.to_str()?;
            let is_compressed = name.ends_with(".zst");
            let stem = name.trim_end_matches(".zst").strip_suffix(".jsonl")?;
            let ids = stem.strip_prefix("rollout-")?.get(20..)?;
            let (thread_id, rollout_id) = ids.split_once('_').unwrap_or((ids, ids));
            if uuid::Uuid::parse_str(thread_id).is_err() || uuid::Uuid::parse_str(rollout_id).is_err() {
                return None;
            }
            let content = if is_compressed {
                zstd::stream::decode_all(&content[..]).ok()
            } else {
                Some(content.clone())
            };
            Some(Found {
                is_archived: path.starts_with("archived_sessions"),
                is_compressed,
                is_two_id: ids.contains('_'),
                stem: stem.to_owned(),
                thread_id: thread_id.to_owned(),
                content,
            })
        };
        tree.iter().filter_map(parse).collect()
    }

    fn is_json_line(line: &[u8]) -> bool {
        line.trim_ascii().is_empty() || serde_json::from_slice::<serde_json::Value>(line).is_ok()
    }

    fn header(content: &[u8]) -> serde_json::Value {
        let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).unwrap_or_default()
    }

    #[test]
    fn the_same_seed_makes_the_same_home() {
        for (threads, size) in [(0, Size::Tiny), (7, Size::Small), (90, Size::Tiny), (400, Size::Small)] {
            let (summary, tree) = make(threads, 5, size, 1);
            assert_eq!((summary, tree.clone()), make(threads, 5, size, 4), "{threads} threads");
            if threads > 0 {
                assert_ne!(tree, make(threads, 6, size, 2).1, "{threads} threads");
            }
        }
    }

    /// Findings are reported with a seed, so its home must stay the same. Whoever changes the sample on
    /// purpose changes this number. Compressed files are left out: they follow the zstd library.
    #[test]
    fn the_home_of_a_seed_never_changes() {
        let (_, tree) = make(60, 1, Size::Small, 2);
        let mut all = Vec::new();
        for (path, (_, mtime, content)) in
            tree.iter().filter(|(path, _)| path.extension() != Some("zst".as_ref()))
        {
            all.extend_from_slice(format!("{} {mtime:?}\n", path.display()).as_bytes());
            all.extend_from_slice(content.as_deref().unwrap_or_default());
        }
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&all), 4_483_473_627_370_803_102);
    }

    #[test]
    fn a_plain_home_has_nothing_compressed() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let root = home.path().join("home");
        let options = SampleOptions { threads: 300, seed: 2, size: Size::Tiny, all_plain: true, jobs: 2 };
        let summary = generate(&root, &options, &|_| ()).expect("a home in a new folder");
        let mut tree = Tree::new();
        walk(&root, &root, &mut tree);
        let found = rollouts(&tree);
        assert_eq!((summary.compressed, summary.broken_zst), (0, 0));
        assert!(found.iter().all(|one| !one.is_compressed) && found.len() as u64 == summary.rollouts);
        assert_eq!(
            summary.bytes,
            tree.values().filter_map(|node| Some(node.2.as_ref()?.len() as u64)).sum::<u64>()
        );
    }

    #[test]
    fn the_summary_says_what_is_on_disk() {
        for (threads, size) in [(12, Size::Small), (30, Size::Tiny), (200, Size::Small), (900, Size::Tiny)] {
            let (summary, tree) = make(threads, 2, size, 2);
            let found = rollouts(&tree);
            let count = |test: &dyn Fn(&Found) -> bool| found.iter().filter(|one| test(one)).count() as u64;
            let content_is =
                |test: &dyn Fn(&[u8]) -> bool| count(&|one| one.content.as_deref().is_some_and(test));
            let files = || tree.values().filter_map(|(_, _, content)| content.as_ref());
            let ids: HashSet<&str> = found.iter().map(|one| one.thread_id.as_str()).collect();
            assert_eq!(summary.threads, threads);
            assert_eq!(ids.len() as u64, threads);
            assert_eq!(summary.files, files().count() as u64);
            assert_eq!(summary.bytes, files().map(|content| content.len() as u64).sum::<u64>());
            assert_eq!(summary.rollouts, found.len() as u64);
            assert_eq!(summary.archived, count(&|one| one.is_archived));
            assert_eq!(summary.compressed, count(&|one| one.is_compressed));
            assert_eq!(summary.broken_zst, count(&|one| one.content.is_none()));
            assert_eq!(summary.reverted, count(&|one| one.is_two_id));
            assert_eq!(summary.empty, content_is(&<[u8]>::is_empty));
            assert_eq!(summary.torn, content_is(&|c| !c.is_empty() && !c.ends_with(b"\n")));
            assert_eq!(summary.duplicates, found.len() as u64 - threads - summary.reverted);
            let needle = text::NEEDLE.as_bytes();
            assert_eq!(summary.needles, content_is(&|c| memchr::memmem::find(c, needle).is_some()));
            let malformed = |c: &[u8]| {
                let mut lines: Vec<&[u8]> = c.split(|byte| *byte == b'\n').collect();
                lines.pop();
                lines.iter().any(|line| !is_json_line(line))
            };
            assert_eq!(summary.malformed, content_is(&malformed));
            let private_files = 5; // auth, config, history, log, session_index
            assert_eq!(summary.stray, summary.files - summary.rollouts - private_files);
        }
    }

    #[test]
    fn headers_agree_with_the_summary() {
        let (summary, tree) = make(600, 8, Size::Small, 2);
        let found = rollouts(&tree);
        let of_threads: BTreeMap<&str, serde_json::Value> = found
            .iter()
            .filter(|one| !one.is_two_id)
            .filter_map(|one| Some((one.thread_id.as_str(), header(one.content.as_deref()?))))
            .collect();
        let count = |test: &dyn Fn(&str, &serde_json::Value) -> bool| {
            of_threads.iter().filter(|(id, value)| test(id, value)).count() as u64
        };
        let payload_has = |key: &str| count(&|_, value| !value["payload"][key].is_null());
        assert_eq!(summary.forks, payload_has("forked_from_id"));
        let is_subagent =
            |_: &str, value: &serde_json::Value| !value["payload"]["source"]["subagent"].is_null();
        // A thread without its header, or broken, says nothing.
        let unknown = summary.broken_zst + summary.wrong_header + summary.empty;
        assert!(
            (summary.subagents - unknown.min(summary.subagents)..=summary.subagents)
                .contains(&count(&is_subagent))
        );
        let wrong = |id: &str, value: &serde_json::Value| {
            !value.is_null() && value["id"] != id && value["payload"]["id"] != id
        };
        assert_eq!(summary.wrong_header, count(&wrong));
        let parents = |key: &str| -> Vec<String> {
            of_threads
                .values()
                .filter_map(|value| value["payload"][key].as_str().map(str::to_owned))
                .collect()
        };
        for parent in parents("forked_from_id").iter().chain(&parents("parent_thread_id")) {
            assert!(of_threads.contains_key(parent.as_str()), "{parent}");
        }
    }

    #[test]
    fn a_reference_names_a_line_end_of_its_base() {
        let (summary, tree) = make(300, 3, Size::Small, 2);
        let found = rollouts(&tree);
        let mut references = 0;
        for one in &found {
            let base = header(one.content.as_deref().unwrap_or_default())["payload"]["history_base"].clone();
            let Some(id) = base["thread_id"].as_str() else { continue };
            let parent = found.iter().find(|other| other.thread_id == id && !other.is_two_id);
            let content = parent.and_then(|parent| parent.content.as_deref()).expect("the base is there");
            let end = base["end_byte_offset"].as_u64().expect("an offset") as usize;
            let lines = content[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!((content[end - 1], Some(lines)), (b'\n', base["end_ordinal_exclusive"].as_u64()));
            references += 1;
        }
        assert!(references > summary.reverted && summary.reverted > 0);
    }

    #[test]
    fn every_oddity_is_in_a_home_of_thirty() {
        for threads in [30, 200] {
            let (summary, tree) = make(threads, 1, Size::Tiny, 2);
            let Summary {
                archived, compressed, forks, subagents, bare, paginated, reverted, duplicates, ..
            } = summary;
            for (what, count) in [
                ("archived", archived),
                ("compressed", compressed),
                ("forks", forks),
                ("subagents", subagents),
                ("bare", bare),
                ("paginated", paginated),
                ("reverted", reverted),
                ("duplicates", duplicates),
                ("named", summary.named),
                ("renamed", summary.renamed),
                ("empty", summary.empty),
                ("torn", summary.torn),
                ("malformed", summary.malformed),
                ("broken", summary.broken_zst),
                ("headers", summary.wrong_header),
                ("stray", summary.stray),
                ("needles", summary.needles),
            ] {
                assert!(count > 0, "{what} with {threads} threads");
            }
            let found = rollouts(&tree);
            let all: Vec<u8> = found.iter().filter_map(|one| one.content.clone()).flatten().collect();
            for text in [
                "\r\n",
                "\0\0\0",
                "caf\u{fffd}",
                "of_the_future",
                "record_type",
                "\"mcp\"",
                "{\"custom\":\"atlas\"}",
                "{\"subagent\":\"review\"}",
                "\"depth\":1",
                "\"depth\":2",
                "history_base",
                "item_completed",
                URL_SECRET,
                "\"instructions\":null",
                "base_instructions",
                "\"kind\":\"plain\"",
                "user_message",
            ] {
                let bytes = if text.starts_with("caf") { b"caf\xe9 \xff" } else { text.as_bytes() };
                assert!(memchr::memmem::find(&all, bytes).is_some(), "{text:?} with {threads} threads");
            }
            let stems: Vec<&str> = found.iter().map(|one| one.stem.as_str()).collect();
            assert!(found.iter().any(|one| one.is_compressed && !one.is_archived));
            assert!(
                stems.iter().collect::<HashSet<_>>().len() < stems.len(),
                "plain beside zst, archived twice"
            );
            let is_folder = |path: &Path| tree.get(path).is_some_and(|(_, _, content)| content.is_none());
            assert!(tree.keys().any(|path| is_folder(path) && path.to_string_lossy().ends_with(".jsonl")));
        }
    }

    #[test]
    fn a_small_home_has_nothing_odd() {
        let (summary, tree) = make(29, 1, Size::Small, 2);
        assert_eq!(
            (summary.torn, summary.malformed, summary.empty, summary.stray, summary.duplicates),
            (0, 0, 0, 0, 0)
        );
        for one in rollouts(&tree) {
            let content = one.content.expect("every frame decodes");
            assert!(content.ends_with(b"\n") && content.split(|byte| *byte == b'\n').all(is_json_line));
        }
    }

    #[test]
    fn the_home_is_private_and_keeps_its_secrets_out_of_rollouts() {
        let (_, tree) = make(60, 1, Size::Small, 2);
        for (path, (mode, _, content)) in &tree {
            let expected = if content.is_some() { 0o600 } else { 0o700 };
            assert_eq!(mode & 0o777, expected, "{}", path.display());
            let has_secret =
                content.as_ref().is_some_and(|c| memchr::memmem::find(c, HOME_SECRET.as_bytes()).is_some());
            let is_private = !path.starts_with("sessions")
                && !path.starts_with("archived_sessions")
                && path != Path::new("session_index.jsonl");
            assert_eq!(has_secret, is_private && content.is_some(), "{}", path.display());
        }
    }

    #[test]
    fn a_taken_folder_is_refused_untouched() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let file = home.path().join("file");
        std::fs::write(&file, "mine").expect("a writable folder");
        let options = SampleOptions { threads: 3, seed: 1, size: Size::Tiny, all_plain: false, jobs: 1 };
        for taken in [home.path(), &file] {
            let error = generate(taken, &options, &|_| ()).expect_err("it is taken");
            assert!(error.to_string().contains("new or an empty folder"), "{error}");
        }
        assert_eq!(std::fs::read_dir(home.path()).expect("it is there").count(), 1);
        let empty = home.path().join("empty");
        std::fs::create_dir(&empty).expect("a writable folder");
        assert!(generate(&empty, &options, &|_| ()).is_ok());
        let too_many = SampleOptions { threads: u64::MAX, ..options };
        assert!(generate(&home.path().join("more"), &too_many, &|_| ()).is_err());
    }

    /// `cargo test --release --lib -- --ignored --nocapture measure`
    #[test]
    #[ignore = "a measurement: needs a release build and some disk space"]
    fn measure() {
        for (threads, size) in [(100_000, Size::Tiny), (100_000, Size::Small), (1000, Size::Realistic)] {
            let home = tempfile::tempdir().expect("a temporary folder");
            let options = SampleOptions { threads, seed: 1, size, all_plain: false, jobs: 0 };
            let start = std::time::Instant::now();
            let summary = generate(home.path(), &options, &|_| ()).expect("a home in an empty folder");
            println!("{size:?}: {:.1} s, {summary:?}", start.elapsed().as_secs_f64());
        }
    }
}
