//! The recorder as spec 11.4 pins it, in the newest semantics; each case of it names its number.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};
use time::UtcOffset;

use super::super::metadata::{Extracted, Extractor};
use super::*;

/// 2026-02-08T09:15:01.002Z
const START_MS: i64 = 1_770_542_101_002;
const ID: &str = "0198c0de-0000-7000-8000-0000000000aa";

/// A clock that goes on by a millisecond a look.
#[derive(Debug)]
struct TestClock {
    now_ms: AtomicI64,
    offset: UtcOffset,
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.fetch_add(1, Ordering::Relaxed)
    }

    fn local_offset(&self, _at_ms: i64) -> UtcOffset {
        self.offset
    }
}

fn clock_at(now_ms: i64, offset: UtcOffset) -> Arc<dyn Clock> {
    Arc::new(TestClock { now_ms: AtomicI64::new(now_ms), offset })
}

fn options() -> RecorderOptions {
    RecorderOptions { clock: clock_at(START_MS, UtcOffset::UTC), ..RecorderOptions::default() }
}

/// Without the session's habit of persisting.
fn passive() -> RecorderOptions {
    RecorderOptions { persists_on_user_message: false, ..options() }
}

fn thread() -> NewThread {
    NewThread { id: Some(ID.parse().unwrap()), ..NewThread::new("/nowhere".into()) }
}

struct TestHome(tempfile::TempDir);

impl TestHome {
    fn new() -> TestHome {
        TestHome(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn create(&self, options: RecorderOptions) -> Recorder {
        Recorder::create(self.root(), thread(), options)
    }

    /// A rollout of three lines: header, user message, answer.
    fn recorded(&self, history_mode: HistoryMode) -> PathBuf {
        let mut recorder = Recorder::create(self.root(), NewThread { history_mode, ..thread() }, options());
        recorder.record_items(match history_mode {
            HistoryMode::Legacy => vec![user("hello"), agent("hi")],
            HistoryMode::Paginated => {
                vec![completed("UserMessage", "hello"), completed("AgentMessage", "hi")]
            }
        });
        let path = recorder.path().to_owned();
        recorder.shutdown().unwrap();
        path
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.root()).unwrap().next().is_none()
    }

    fn resume(&self, path: &Path) -> Result<Recorder> {
        Recorder::resume(self.root(), path, options())
    }
}

fn user(text: &str) -> Item {
    Item::new("event_msg", &json!({"type": "user_message", "message": text})).unwrap()
}

fn agent(text: &str) -> Item {
    Item::new("event_msg", &json!({"type": "agent_message", "message": text})).unwrap()
}

fn response(text: &str) -> Item {
    Item::new("response_item", &json!({"type": "message", "role": "user", "content": text})).unwrap()
}

fn completed(kind: &str, text: &str) -> Item {
    let item = json!({"type": kind, "content": [{"type": "text", "text": text}]});
    Item::new("event_msg", &json!({"type": "item_completed", "item": item})).unwrap()
}

fn values(text: &[u8]) -> Vec<Value> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).unwrap_or(Value::Null)).collect()
}

fn lines_of(path: &Path) -> Vec<Value> {
    values(&fs::read(path).unwrap())
}

/// What tells items apart, of each line.
fn said(lines: &[Value]) -> Vec<String> {
    let said = |line: &Value| match (line["type"].as_str(), &line["payload"]) {
        (Some("session_meta"), payload) => format!("meta {}", payload["id"].as_str().unwrap()),
        (_, payload) => ["/message", "/content", "/item/content/0/text"]
            .iter()
            .find_map(|pointer| payload.pointer(pointer)?.as_str())
            .unwrap_or("?")
            .to_owned(),
    };
    lines.iter().map(said).collect()
}

fn extracted(path: &Path) -> Extracted {
    let name = RolloutName::parse(path.file_name().unwrap().as_encoded_bytes());
    let mut extractor = Extractor::new(name.as_ref());
    extractor.feed(&fs::read(path).unwrap());
    extractor.finish()
}

/// Spec 11.4, case 1; and 1.1, 3.1: the path is known and nothing is made before.
#[test]
fn items_wait_without_a_file_until_a_flush() {
    let home = TestHome::new();
    let mut recorder = home.create(options());
    let expected = home.root().join(format!("sessions/2026/02/08/rollout-2026-02-08T09-15-01-{ID}.jsonl"));
    assert_eq!(recorder.path(), expected);
    recorder.record_items(vec![response("a"), agent("b")]);
    assert!(home.is_empty(), "neither file nor folder");
    assert!(!recorder.is_materialised());
    recorder.flush().unwrap();
    assert_eq!(said(&lines_of(&expected)), [&format!("meta {ID}"), "a", "b"]);
}

/// Spec 11.4, case 2, in the newest semantics: a flush writes what waits. By itself, the first message of the user
/// persists the thread, as the session sees to it (spec 3.1).
#[test]
fn the_first_user_message_makes_the_file() {
    let home = TestHome::new();
    let mut recorder = home.create(passive());
    recorder.record_items(vec![user("a")]);
    assert!(home.is_empty(), "nobody persisted it");
    recorder.flush().unwrap();
    assert_eq!(lines_of(recorder.path()).len(), 2);

    for (history_mode, message) in
        [(HistoryMode::Legacy, user("x")), (HistoryMode::Paginated, completed("UserMessage", "x"))]
    {
        let home = TestHome::new();
        let mut recorder = Recorder::create(home.root(), NewThread { history_mode, ..thread() }, options());
        recorder.record_items(vec![response("before")]);
        assert!(home.is_empty());
        recorder.record_items(vec![message]);
        assert_eq!(said(&lines_of(recorder.path()))[1..], ["before", "x"]);
        recorder.record_items(vec![response("at once")]);
        assert_eq!(lines_of(recorder.path()).len(), 4);
        assert_eq!((recorder.pending_count(), recorder.pending_bytes(), recorder.written_count()), (0, 0, 3));
    }
}

/// Spec 11.4, case 3.
#[test]
fn persist_writes_the_header_and_then_the_items_in_order() {
    let home = TestHome::new();
    let mut recorder = home.create(passive());
    let texts: Vec<String> = (0..100).map(|number| format!("item {number}")).collect();
    for chunk in texts.chunks(7) {
        recorder.record_items(chunk.iter().map(|text| response(text)).collect());
    }
    recorder.persist().unwrap();
    let lines = lines_of(recorder.path());
    assert_eq!(lines[0]["type"], "session_meta");
    assert_eq!(said(&lines)[1..], texts);
    let text = fs::read_to_string(recorder.path()).unwrap();
    assert!(text.starts_with(
        "{\"timestamp\":\"2026-02-08T09:15:01.003Z\",\"type\":\"session_meta\",\"payload\":{\"id\":"
    ));
    assert_eq!(lines[0]["payload"]["timestamp"], "2026-02-08T09:15:01.002Z", "when it was created");
    assert_eq!(recorder.written_bytes(), text.len() as u64);
}

/// Spec 11.4, case 4.
#[test]
fn persisting_twice_changes_nothing() {
    let home = TestHome::new();
    let mut recorder = home.create(passive());
    recorder.record_items(vec![user("a")]);
    recorder.persist().unwrap();
    let first = fs::read(recorder.path()).unwrap();
    recorder.persist().unwrap();
    recorder.flush().unwrap();
    assert!(fs::read(recorder.path()).unwrap() == first);
}

/// Spec 11.4, case 5.
#[test]
fn a_file_in_place_of_the_folder_defers_until_it_is_gone() {
    let home = TestHome::new();
    let obstacle = home.root().join("sessions");
    fs::write(&obstacle, "in the way").unwrap();
    let mut recorder = home.create(options());
    assert_eq!(recorder.record_items(vec![user("a"), agent("b")]).kept_count, 2);
    let error = recorder.persist().unwrap_err().to_string();
    assert!(error.contains("sessions"), "{error}");
    assert!(!recorder.is_materialised());
    assert_eq!(fs::read(&obstacle).unwrap(), b"in the way");
    fs::remove_file(&obstacle).unwrap();
    recorder.flush().unwrap();
    assert_eq!(said(&lines_of(recorder.path()))[1..], ["a", "b"]);
}

/// Spec 11.4, case 6.
#[test]
fn a_handle_that_cannot_write_is_opened_again_and_lines_are_written_once() {
    struct ReadOnlyFirst(Mutex<u32>);
    impl Disk for ReadOnlyFirst {
        fn open(&self, path: &Path, create: bool) -> Result<Box<dyn Appender>> {
            let mut opened_count = self.0.lock().unwrap();
            *opened_count += 1;
            if *opened_count == 2 {
                return Ok(Box::new(fs::File::open(path).map_err(StoreError::io("open", path))?));
            }
            SystemDisk.open(path, create)
        }
        fn sync_names(&self, path: &Path, home: &Path) -> Result<()> {
            SystemDisk.sync_names(path, home)
        }
    }
    let home = TestHome::new();
    let disk = Box::new(ReadOnlyFirst(Mutex::new(0)));
    let mut recorder = home.create(RecorderOptions { disk, ..options() });
    recorder.record_items(vec![user("a")]);
    recorder.file = None; // the next open gives the handle that cannot write
    recorder.record_items(vec![agent("b"), agent("c")]);
    assert_eq!(said(&lines_of(recorder.path()))[1..], ["a", "b", "c"]);
    assert_eq!(recorder.pending_count(), 0);
    recorder.flush().unwrap();
}

/// Spec 11.4, case 7.
#[test]
fn a_thread_without_items_leaves_nothing() {
    let home = TestHome::new();
    let mut recorder = home.create(options());
    recorder.flush().unwrap();
    recorder.record_items(vec![Item::new("event_msg", &json!({"type": "agent_message_delta"})).unwrap()]);
    recorder.flush().unwrap();
    recorder.shutdown().unwrap();
    assert!(home.is_empty());
}

/// Spec 11.4, cases 8 and 9: databases are the business of Codex. None is made or touched, and all that a row needs
/// can be read from the file.
#[test]
fn databases_are_never_written_and_a_row_can_be_made_from_the_file() {
    let home = TestHome::new();
    let database = home.root().join("state_5.sqlite");
    fs::write(&database, "not for us").unwrap();
    let before = fs::metadata(&database).unwrap().modified().unwrap();
    let path = home.recorded(HistoryMode::Legacy);
    let mut recorder = home.resume(&path).unwrap();
    recorder
        .record_items(vec![Item::new("event_msg", &json!({"type": "token_count", "info": null})).unwrap()]);
    recorder.shutdown().unwrap();
    assert_eq!(fs::metadata(&database).unwrap().modified().unwrap(), before);
    let mut names: Vec<_> = fs::read_dir(home.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["sessions", "state_5.sqlite", LOCKS_DIR_NAME]);
    let found = extracted(&path);
    assert_eq!((found.parse_errors, found.lines, found.torn), (0, 4, false));
    let metadata = found.metadata;
    assert_eq!(metadata.id, Some(ID.parse().unwrap()));
    assert_eq!(metadata.created_at_ms, START_MS);
    assert_eq!(
        (metadata.title.as_str(), metadata.cwd.as_str(), metadata.source.as_str()),
        ("hello", "/nowhere", "exec")
    );
}

/// Spec 11.4, case 10.
#[test]
fn a_missing_file_cannot_be_resumed() {
    let home = TestHome::new();
    let path = home.root().join(format!("sessions/2026/02/08/rollout-2026-02-08T09-15-01-{ID}.jsonl"));
    assert!(matches!(home.resume(&path), Err(StoreError::NotFound { .. })));
    assert!(home.is_empty());
}

/// Spec 11.4, case 11.
#[test]
fn a_cut_last_line_is_ended_before_the_next_record() {
    for (history_mode, next) in [(HistoryMode::Legacy, Value::Null), (HistoryMode::Paginated, json!(2))] {
        let home = TestHome::new();
        let path = home.recorded(history_mode);
        let whole = fs::read(&path).unwrap();
        let torn = &whole[..whole.len() - 9];
        fs::write(&path, torn).unwrap();
        let mut recorder = home.resume(&path).unwrap();
        assert!(fs::read(&path).unwrap() == torn, "nothing is done before there is something to append");
        recorder.record_items(vec![completed("Plan", "next"), completed("Plan", "more")]);
        recorder.shutdown().unwrap();
        let after = fs::read(&path).unwrap();
        assert!(after.starts_with(torn) && after[torn.len()] == b'\n');
        let lines = values(&after);
        assert_eq!(lines.len(), 5);
        assert_eq!((&lines[2], &lines[3]["ordinal"]), (&Value::Null, &next));
        assert_eq!(said(&lines[3..]), ["next", "more"]);
        assert_eq!(extracted(&path).parse_errors, 1);
    }
}

/// Spec 11.4, case 16; and 2.3: what is not known is left out, what is known is in the order of Codex.
#[test]
fn the_header_says_what_is_known_and_no_more() {
    let home = TestHome::new();
    let keys = |thread: NewThread| {
        let mut recorder = Recorder::create(home.root(), NewThread { id: None, ..thread }, passive());
        recorder.persist().unwrap();
        let text = fs::read_to_string(recorder.path()).unwrap();
        let line: Value = serde_json::from_str(&text).unwrap();
        let payload = line["payload"].as_object().unwrap();
        let mut keys: Vec<_> =
            payload.keys().map(|key| (text.find(&format!("\"{key}\":")).unwrap(), key.clone())).collect();
        keys.sort();
        (keys.into_iter().map(|(_, key)| key).collect::<Vec<_>>().join(" "), line["payload"].clone())
    };
    let (least, _) = keys(NewThread::new("/nowhere".into()));
    assert_eq!(
        least, "timestamp id cwd originator cli_version source",
        "the line's own timestamp comes first"
    );
    let (most, payload) = keys(NewThread {
        originator: "tester".into(),
        source: json!({"subagent": "review"}),
        model_provider: Some("mock".into()),
        base_instructions: Some("be\nkind".into()),
        dynamic_tools: vec![json!({"name": "t", "description": "d", "inputSchema": {}})],
        forked_from: Some(ID.parse().unwrap()),
        parent: Some(ID.parse().unwrap()),
        history_mode: HistoryMode::Paginated,
        memory_mode: Some("disabled".into()),
        ..NewThread::new("/nowhere".into())
    });
    assert_eq!(
        most,
        "timestamp id forked_from_id parent_thread_id cwd originator cli_version source model_provider base_instructions dynamic_tools memory_mode history_mode"
    );
    assert_eq!(payload["base_instructions"]["text"], "be\nkind");
    assert_eq!(payload["dynamic_tools"][0]["name"], "t");
    assert_eq!(
        (&payload["source"]["subagent"], &payload["history_mode"]),
        (&json!("review"), &json!("paginated"))
    );
}

/// Spec 11.4, case 17.
#[test]
fn outputs_of_commands_are_absent_or_cut() {
    for (policy, lines_count) in [(Mode::Limited, 2), (Mode::Extended, 3), (Mode::Legacy, 2)] {
        let home = TestHome::new();
        let mut recorder = home.create(RecorderOptions { policy: Some(policy), ..options() });
        let end = json!({"type": "exec_command_end", "stdout": "so", "stderr": "se", "formatted_output": "f",
            "aggregated_output": "x".repeat(30_000), "exit_code": 0});
        let recorded = recorder.record_items(vec![user("a"), Item::new("event_msg", &end).unwrap()]);
        assert_eq!(recorded, Recorded { kept_count: lines_count - 1, dropped_count: 3 - lines_count });
        let lines = lines_of(recorder.path());
        assert_eq!(lines.len() as u64, lines_count, "{policy:?}");
        if policy == Mode::Extended {
            let payload = &lines[2]["payload"];
            assert_eq!((&payload["stdout"], &payload["exit_code"]), (&json!(""), &json!(0)));
            assert!(payload["aggregated_output"].as_str().unwrap().len() <= 10_000);
        }
    }
}

/// Spec 11.4, case 18.
#[test]
fn a_thread_has_one_writer() {
    let home = TestHome::new();
    let path = home.recorded(HistoryMode::Legacy);
    let first = home.resume(&path).unwrap();
    let text = format!("thread {ID} already has an active writer");
    let refused = home.resume(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Busy { .. }) && refused.to_string().contains(&text), "{refused}");
    let mut other = home.create(options());
    other.record_items(vec![user("late")]);
    assert!(other.flush().unwrap_err().to_string().contains(&text));
    drop(first);
    other.flush().unwrap();
    assert_eq!(said(&lines_of(&path)).last().unwrap(), "late");
    other.shutdown().unwrap();
    let locks = home.root().join(LOCKS_DIR_NAME);
    assert!(!locks.join(format!("{ID}.lock")).exists());
    home.resume(&path).unwrap();
}

/// Spec 11.6, case 3.
#[test]
fn a_compressed_rollout_is_made_plain_when_it_is_resumed() {
    for by_its_name in [true, false] {
        let home = TestHome::new();
        let path = home.recorded(HistoryMode::Paginated);
        let plain = fs::read(&path).unwrap();
        let compressed = content::compressed_path(&path);
        fs::write(&compressed, zstd::encode_all(plain.as_slice(), 3).unwrap()).unwrap();
        fs::set_permissions(&compressed, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(&path).unwrap();
        let mut recorder = home.resume(if by_its_name { &compressed } else { &path }).unwrap();
        assert!(!compressed.exists());
        assert!(fs::read(&path).unwrap() == plain);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        recorder.record_items(vec![completed("Plan", "next")]);
        let after = fs::read(recorder.path()).unwrap();
        assert!(after.starts_with(&plain));
        assert_eq!(values(&after)[3]["ordinal"], 3);
    }
}

/// Spec 2.9.
#[test]
fn lines_of_a_paginated_thread_are_numbered_from_zero_and_on() {
    let home = TestHome::new();
    let path = home.recorded(HistoryMode::Paginated);
    let mut recorder = home.resume(&path).unwrap();
    assert_eq!(recorder.record_items(vec![user("an event"), completed("Plan", "p")]).dropped_count, 1);
    recorder.shutdown().unwrap();
    let ordinals: Vec<_> = lines_of(&path).iter().map(|line| line["ordinal"].as_u64().unwrap()).collect();
    assert_eq!(ordinals, [0, 1, 2, 3]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| line[..60].contains("Z\",\"ordinal\":")), "behind the timestamp");
    fs::write(&path, text + "{\"timestamp\":\"t\",\"type\":\"compacted\",\"payload\":{}}\n").unwrap();
    let refused = home.resume(&path).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("final paginated rollout record at {} is missing an ordinal", path.display())
    );
}

/// Spec 1.1: local time in names, UTC in lines. A change of the clock makes names run backwards.
#[test]
fn names_have_local_time_and_lines_have_utc() {
    let hours = |hours| UtcOffset::from_hms(hours, 0, 0).unwrap();
    for (at_ms, offset, path) in [
        (START_MS, hours(1), "2026/02/08/rollout-2026-02-08T10-15-01"),
        (START_MS, hours(-10), "2026/02/07/rollout-2026-02-07T23-15-01"),
        (START_MS, UtcOffset::from_hms(5, 45, 0).unwrap(), "2026/02/08/rollout-2026-02-08T15-00-01"),
        // The night of 25 October 2026 in Central Europe.
        (1_792_888_200_000, hours(2), "2026/10/25/rollout-2026-10-25T02-30-00"),
        (1_792_890_600_000, hours(1), "2026/10/25/rollout-2026-10-25T02-10-00"),
        (-62_135_596_800_000, UtcOffset::UTC, "1/01/01/rollout-0001-01-01T00-00-00"),
    ] {
        let home = TestHome::new();
        let mut recorder = home.create(RecorderOptions { clock: clock_at(at_ms, offset), ..options() });
        assert_eq!(recorder.path(), home.root().join(format!("sessions/{path}-{ID}.jsonl")));
        recorder.persist().unwrap();
        let expected = String::from_utf8(clock::stamp(at_ms + 1).to_vec()).unwrap();
        assert_eq!(lines_of(recorder.path())[0]["timestamp"], json!(expected));
    }
}

/// The zone of the machine, with its summer time; in a process of its own, which can have a zone of its own.
#[test]
fn names_follow_the_zone_of_the_machine() {
    const MARK: &str = "ROLLOUTFS_TEST_ZONE";
    const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    if std::env::var_os(MARK).is_none() {
        let name = "store::recorder::tests::names_follow_the_zone_of_the_machine";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .envs([("TZ", ZONE), (MARK, "1")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    for (at_ms, expected) in [
        (START_MS, "2026-02-08 10:15:01"),
        (1_782_864_000_000, "2026-07-01 2:00:00"),
        (1_792_888_200_000, "2026-10-25 2:30:00"),
        (1_792_890_600_000, "2026-10-25 2:10:00"),
    ] {
        let wall = clock::wall_time(&SystemClock, at_ms);
        assert!(wall.to_string().starts_with(expected), "{wall} {expected}");
    }
}

#[test]
fn git_is_asked_when_the_file_is_made() {
    let home = TestHome::new();
    let work = tempfile::tempdir().unwrap();
    let thread = NewThread { cwd: work.path().to_owned(), ..thread() };
    let mut recorder = Recorder::create(home.root(), thread, options());
    fs::create_dir(work.path().join(".git")).unwrap();
    fs::write(work.path().join(".git/HEAD"), "ref: refs/heads/late\n").unwrap();
    fs::write(
        work.path().join(".git/config"),
        "[remote \"origin\"]\nurl = https://u:secret@example.org/a.git\n",
    )
    .unwrap();
    recorder.record_items(vec![user("a")]);
    let git = &lines_of(recorder.path())[0]["payload"]["git"];
    assert_eq!(git, &json!({"branch": "late", "repository_url": "https://example.org/a.git"}));
}

#[test]
fn new_ids_are_of_version_7_and_of_the_time_of_creation() {
    let home = TestHome::new();
    let recorder = Recorder::create(home.root(), NewThread::new("/".into()), options());
    let uuid = recorder.id().uuid();
    assert_eq!(uuid.get_version_num(), 7);
    let (seconds, nanos) = uuid.get_timestamp().unwrap().to_unix();
    assert_eq!(seconds as i64 * 1000 + i64::from(nanos / 1_000_000), START_MS);
}

#[test]
fn given_times_are_kept_when_asked_for() {
    let line = br#"{"timestamp":"2025-12-24T18:00:00.5+01:00","ordinal":3,"type":"compacted","payload":{"message":"x"}}"#;
    for (keeps_given_times, expected) in
        [(true, "2025-12-24T17:00:00.500Z"), (false, "2026-02-08T09:15:01.004Z")]
    {
        let home = TestHome::new();
        let mut recorder = home.create(RecorderOptions { keeps_given_times, ..options() });
        recorder.record_items(vec![Item::parse(line).unwrap()]);
        recorder.flush().unwrap();
        assert_eq!(lines_of(recorder.path())[1]["timestamp"], expected);
    }
}

#[test]
fn a_rollout_that_was_removed_does_not_come_back_without_its_header() {
    let home = TestHome::new();
    let path = home.recorded(HistoryMode::Legacy);
    let mut recorder = home.resume(&path).unwrap();
    fs::remove_file(&path).unwrap();
    recorder.file = None;
    recorder.record_items(vec![agent("x")]);
    assert!(recorder.flush().is_err());
    assert!(!path.exists());
    assert_eq!(recorder.pending_count(), 1);
}

#[test]
fn shutdown_that_fails_hands_the_recorder_back() {
    let home = TestHome::new();
    fs::write(home.root().join("sessions"), "").unwrap();
    let mut recorder = home.create(RecorderOptions { durability: Durability::Flush, ..options() });
    recorder.record_items(vec![user("a")]);
    let unfinished = recorder.shutdown().unwrap_err();
    assert!(unfinished.to_string().contains("sessions"));
    fs::remove_file(home.root().join("sessions")).unwrap();
    let path = unfinished.recorder.path().to_owned();
    unfinished.recorder.shutdown().unwrap();
    assert_eq!(lines_of(&path).len(), 2);
}

/// Counts and refuses waits for the disk.
#[derive(Clone, Default)]
struct SyncDisk {
    counts: Arc<Mutex<[u32; 2]>>,
    refuses: Arc<Mutex<bool>>,
}

struct SyncFile(Box<dyn Appender>, SyncDisk);

impl Disk for SyncDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn Appender>> {
        Ok(Box::new(SyncFile(SystemDisk.open(path, create)?, self.clone())))
    }
    fn sync_names(&self, path: &Path, home: &Path) -> Result<()> {
        self.counts.lock().unwrap()[1] += 1;
        SystemDisk.sync_names(path, home)
    }
}

impl Appender for SyncFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn is_at_line_start(&mut self) -> io::Result<bool> {
        self.0.is_at_line_start()
    }
    fn sync(&mut self) -> io::Result<()> {
        self.1.counts.lock().unwrap()[0] += 1;
        if *self.1.refuses.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.sync()
    }
}

#[test]
fn the_disk_is_waited_for_only_when_asked_and_only_for_what_is_new() {
    for (durability, counts) in
        [(Durability::System, [[0, 0]; 4]), (Durability::Flush, [[0, 0], [1, 1], [1, 1], [2, 1]])]
    {
        let home = TestHome::new();
        let disk = SyncDisk::default();
        let seen = disk.counts.clone();
        let mut recorder =
            home.create(RecorderOptions { durability, disk: Box::new(disk.clone()), ..options() });
        recorder.record_items(vec![user("a")]);
        let mut found = vec![*seen.lock().unwrap()];
        recorder.flush().unwrap();
        found.push(*seen.lock().unwrap());
        recorder.flush().unwrap();
        found.push(*seen.lock().unwrap());
        recorder.record_items(vec![agent("b")]);
        *disk.refuses.lock().unwrap() = true;
        assert_eq!(recorder.flush().is_err(), durability == Durability::Flush);
        found.push(*seen.lock().unwrap());
        assert_eq!(found, counts);
        *disk.refuses.lock().unwrap() = false;
        recorder.flush().unwrap();
        assert_eq!(lines_of(recorder.path()).len(), 3, "nothing is written twice for it");
    }
}

#[test]
fn a_recorder_can_go_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Recorder>();
    is_send::<Item>();
}

/// What happens to a write of so many bytes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Whole,
    /// Takes only this part of it, in 256ths, and says so.
    Short(u8),
    /// Takes this part, and then fails on the next write.
    Fails(u8),
    /// Fails but for the newline at its end.
    FailsAtNewline,
    /// Is interrupted.
    Interrupted,
}

#[derive(Default)]
struct Memory {
    exists: bool,
    bytes: Vec<u8>,
    fates: VecDeque<Fate>,
    failed_opens: VecDeque<bool>,
    /// Writes through the open handle fail from now on.
    broken: bool,
}

#[derive(Clone)]
struct MemoryDisk(Arc<Mutex<Memory>>);

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn Appender>> {
        let mut memory = self.0.lock().unwrap();
        if memory.failed_opens.pop_front().unwrap_or(false) || !(create || memory.exists) {
            return Err(StoreError::io("open", path)(io::Error::from_raw_os_error(libc::EACCES)));
        }
        memory.exists = true;
        memory.broken = false;
        Ok(Box::new(self.clone()))
    }

    fn sync_names(&self, _path: &Path, _home: &Path) -> Result<()> {
        Ok(())
    }
}

impl Appender for MemoryDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut memory = self.0.lock().unwrap();
        let part = |part: u8| bytes.len() * usize::from(part) / 256;
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        if memory.broken {
            return Err(full());
        }
        let length = match memory.fates.pop_front().unwrap_or(Fate::Whole) {
            Fate::Whole => bytes.len(),
            Fate::Short(taken) => part(taken).max(1),
            Fate::Fails(taken) => {
                memory.broken = true;
                part(taken)
            }
            Fate::FailsAtNewline => {
                memory.broken = true;
                bytes.len() - 1
            }
            Fate::Interrupted => return Err(ErrorKind::Interrupted.into()),
        };
        if length == 0 {
            return Err(full());
        }
        memory.bytes.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn is_at_line_start(&mut self) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().bytes.last().is_none_or(|last| *last == b'\n'))
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Whole),
        2 => any::<u8>().prop_map(Fate::Short),
        3 => any::<u8>().prop_map(Fate::Fails),
        1 => Just(Fate::FailsAtNewline),
        1 => Just(Fate::Interrupted),
    ]
}

/// The whole records of a file, in order; every other line must be the beginning of one.
fn whole_records(bytes: &[u8]) -> Vec<Value> {
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "no half line is left at the end");
    let mut records = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]) {
        match serde_json::from_slice::<Value>(line) {
            Ok(record) => records.push(record),
            Err(error) => assert!(error.is_eof() && !line.is_empty(), "{error}: a closed beginning"),
        }
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Spec 3.4: whatever fails, in the end every item is there once, in order, behind the header.
    #[test]
    fn failing_writes_lose_nothing_and_repeat_nothing(
        fates in prop::collection::vec(fate(), 0..60),
        failed_opens in prop::collection::vec(any::<bool>(), 0..12),
        steps in prop::collection::vec((0_usize..5, 0_u8..3), 1..20),
        paginated in any::<bool>(),
    ) {
        let home = TestHome::new();
        let memory = Memory { fates: fates.into(), failed_opens: failed_opens.into(), ..Memory::default() };
        let disk = MemoryDisk(Arc::new(Mutex::new(memory)));
        let history_mode = if paginated { HistoryMode::Paginated } else { HistoryMode::Legacy };
        let mut recorder = Recorder::create(
            home.root(),
            NewThread { history_mode, ..thread() },
            RecorderOptions { disk: Box::new(disk.clone()), ..options() },
        );
        let mut given = 0;
        for (items_count, command) in steps {
            let items = (given..given + items_count).map(|number| response(&format!("item {number}")));
            recorder.record_items(items.collect());
            given += items_count;
            // Errors are what this test makes.
            let _ = match command {
                0 => Ok(()),
                1 => recorder.flush(),
                _ => recorder.persist(),
            };
        }
        let mut tries = 0;
        while recorder.flush().is_err() {
            tries += 1;
            prop_assert!(tries < 100, "there are not so many failures");
        }
        prop_assert_eq!(recorder.pending_count(), 0);
        prop_assert_eq!(recorder.pending_bytes(), 0);
        let bytes = disk.0.lock().unwrap().bytes.clone();
        prop_assert_eq!(recorder.written_bytes(), bytes.len() as u64);
        let records = whole_records(&bytes);
        if given > 0 || recorder.is_materialised() {
            let expected: Vec<_> =
                std::iter::once(format!("meta {ID}")).chain((0..given).map(|number| format!("item {number}"))).collect();
            prop_assert_eq!(said(&records), expected);
        }
        if paginated {
            for (number, record) in records.iter().enumerate() {
                prop_assert_eq!(&record["ordinal"], &json!(number));
            }
        }
        let memory = disk.0.lock().unwrap().exists;
        prop_assert!(memory || given == 0);
    }
}
