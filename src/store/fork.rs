//! How does a thread become two (spec 9.4)?
//!
//! A fork of legacy history is a copy: a header of its own, then the lines of the parent byte for byte. A fork of paginated
//! history is its header alone, which names the parent's rollout and how much of it counts: bytes and ordinals that
//! must be exact. Depends on `content`, `rollout`, `placement` and `archive`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};
use uuid::Uuid;

use super::archive::active_path;
use super::content::{self, Located};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::Home;
use super::placement::{Temporary, make_folder, sync_folder};
use super::rollout::{LineSplitter, LineState, Record, RolloutName, ThreadId, read_line};
use super::tree::split_path;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Who wrote the header of a fork (spec 2.3, `originator`).
const ORIGINATOR: &str = "rolloutfs";
/// Sources of threads that Codex lists by default, in every version.
const INTERACTIVE_SOURCES: [&str; 2] = ["cli", "vscode"];
/// What a header says of a sub-agent, an earlier fork or an earlier part: none of it is true of a fork.
const NOT_INHERITED: [&str; 12] = [
    "forked_from_id",
    "forked_from_ordinal_exclusive",
    "history_base",
    "parent_thread_id",
    "subagent_history_start_ordinal",
    "agent_nickname",
    "agent_role",
    "agent_type",
    "agent_path",
    "thread_source",
    "creator_user_id",
    "creator_account_id",
];

/// How a fork is made.
#[derive(Clone, Debug, Default)]
pub struct ForkOptions {
    /// Its working directory; None: the parent's.
    pub cwd: Option<String>,
}

/// A new thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forked {
    /// Its id.
    pub id: ThreadId,
    /// The thread that it was forked from.
    pub forked_from: ThreadId,
    /// Its logical path below the home.
    pub path: String,
    /// Its file.
    pub file: PathBuf,
    /// It reads the parent's file up to where that was forked, instead of having a copy.
    pub is_reference: bool,
}

/// Forks the rollout `parent` (logical path) as it is now. A torn last line does not count.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Invalid`] for a parent without a header, with a history that this program does not
/// know, or with ordinals missing; [`StoreError::Damaged`], [`StoreError::Io`].
pub fn fork(home: &Home, parent: &[u8], options: &ForkOptions) -> Result<Forked> {
    let name = RolloutName::parse(split_path(parent).1)
        .ok_or_else(|| StoreError::denied(&home.join(parent), "it is no rollout"))?;
    let located = content::locate(&home.join(parent))?;
    let history = read_history(&located)?;
    let refuse =
        |reason: &str| StoreError::Invalid(format!("{} cannot be forked: {reason}", located.path.display()));
    let Some(header) = history.header else {
        return Err(refuse("it has no header that Codex could read"));
    };
    let is_reference = match header.text("history_mode").as_deref() {
        None | Some("legacy") => false,
        Some("paginated") => true,
        Some(other) => return Err(refuse(&format!("its history mode is {}", other.escape_debug()))),
    };
    let base = match (is_reference, history.last) {
        (false, _) => None,
        (true, Some((Some(ordinal), end_bytes))) => Some((ordinal + 1, end_bytes)),
        (true, _) => return Err(refuse("its last line has no ordinal, and Codex would not read it either")),
    };
    let now = OffsetDateTime::now_utc();
    let id = ThreadId::new(Uuid::now_v7());
    let line = header_line(header, id, &name, base, options, now);
    let line = line.map_err(|error| refuse(&format!("its header cannot be written: {error}")))?;
    let new_name = RolloutName::new(local_clock(now), id, None);
    let path = active_path(&new_name);
    let folder = make_folder(home, split_path(&path).0, true)?;
    let mut temporary = Temporary::create(&folder)?;
    write_fork(temporary.file(), &line, (!is_reference).then_some(&located))?;
    // Codex must be able to append, also when the parent is closed to it.
    temporary.take_owner_and_mode(&located.stat, located.stat.mode() & 0o777 | 0o600)?;
    temporary.sync()?;
    hit("fork.written");
    let file = home.join(&path);
    temporary.place(&file)?;
    hit("fork.placed");
    sync_folder(&folder)?;
    let path = String::from_utf8_lossy(&path).into_owned();
    Ok(Forked { id, forked_from: name.thread_id(), path, file, is_reference })
}

/// What a fork must know of its parent.
#[derive(Default)]
struct History {
    /// The payload of the first `session_meta`.
    header: Option<Payload>,
    /// Ordinal of the last whole record, and the decoded bytes up to its end.
    last: Option<(Option<u64>, u64)>,
}

fn read_history(located: &Located) -> Result<History> {
    let mut source = content::open_decoded_reader(located)?;
    let mut history = History::default();
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = match source.read(&mut chunk) {
            Ok(0) => return Ok(history),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(content::read_error(located, error)),
        };
        lines.feed(&chunk[..length], |line| {
            let mut found = None;
            let state = if line.over_long {
                // Its ordinal stands at its beginning, which is all that was kept.
                found = Some(ordinal_of_head(line.bytes));
                LineState::Whole
            } else {
                read_line(line.bytes, |record| {
                    let Record::Enveloped(envelope) = record else { return };
                    if history.header.is_none() && envelope.kind == "session_meta" {
                        history.header = serde_json::from_str(envelope.payload.get()).ok();
                    }
                    found = Some(envelope.ordinal);
                })
            };
            if let (LineState::Whole, Some(ordinal)) = (state, found) {
                history.last = Some((ordinal, line.end_offset));
            }
        });
    }
}

/// The ordinal in the beginning of a line whose end was not kept.
fn ordinal_of_head(head: &[u8]) -> Option<u64> {
    let key = b"\"ordinal\":";
    let payload = memchr::memmem::find(head, b"\"payload\":").unwrap_or(head.len());
    let digits = &head[memchr::memmem::find(&head[..payload], key)? + key.len()..payload];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// The wall clock of this machine, as names of rollouts have it (spec 1.1).
fn local_clock(now: OffsetDateTime) -> PrimitiveDateTime {
    let local = now.to_offset(UtcOffset::local_offset_at(now).unwrap_or(UtcOffset::UTC));
    PrimitiveDateTime::new(local.date(), local.time())
}

/// The own header of a fork, with its newline. `base` is the first ordinal and byte of the parent that do not count.
fn header_line(
    mut payload: Payload,
    id: ThreadId,
    parent: &RolloutName,
    base: Option<(u64, u64)>,
    options: &ForkOptions,
    now: OffsetDateTime,
) -> serde_json::Result<Vec<u8>> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let timestamp = now.format(&format).unwrap_or_default();
    NOT_INHERITED.iter().for_each(|key| payload.remove(key));
    payload.set("id", &id)?;
    payload.set_behind("id", "forked_from_id", &parent.thread_id())?;
    payload.set("timestamp", &timestamp)?;
    payload.set("originator", &ORIGINATOR)?;
    if payload.get("session_id").is_some() {
        payload.set("session_id", &id)?;
    }
    if payload.get("context_window").is_some() {
        payload.set("context_window", &serde_json::json!({"window_id": Uuid::now_v7()}))?;
    }
    let is_interactive = |source: &str| INTERACTIVE_SOURCES.contains(&source);
    if payload.get("source").is_some() && !payload.text("source").as_deref().is_some_and(is_interactive) {
        // A sub-agent's, or one of `codex exec`: its fork is a user's thread, and is to be listed as one.
        payload.set("source", &"cli")?;
    }
    if let Some(cwd) = &options.cwd {
        payload.set("cwd", cwd)?;
        payload.remove("git");
        if payload.get("runtime_workspace_roots").is_some() {
            payload.set("runtime_workspace_roots", &[cwd])?;
        }
    }
    if let Some((end_ordinal, end_bytes)) = base {
        payload.set_behind("forked_from_id", "forked_from_ordinal_exclusive", &end_ordinal)?;
        let base = HistoryBase {
            thread_id: parent.key_id(),
            end_ordinal_exclusive: end_ordinal,
            end_byte_offset: end_bytes,
        };
        payload.set_behind("history_mode", "history_base", &base)?;
    }
    let ordinal = base.map(|(end_ordinal, _)| end_ordinal);
    let mut line = serde_json::to_vec(&HeaderLine { timestamp, ordinal, kind: "session_meta", payload })?;
    line.push(b'\n');
    Ok(line)
}

#[derive(Serialize)]
struct HeaderLine {
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordinal: Option<u64>,
    #[serde(rename = "type")]
    kind: &'static str,
    payload: Payload,
}

/// Spec 2.3, `history_base`: the id is the rollout's.
#[derive(Serialize)]
struct HistoryBase {
    thread_id: ThreadId,
    end_ordinal_exclusive: u64,
    end_byte_offset: u64,
}

fn write_fork(file: &mut File, header: &[u8], copied: Option<&Located>) -> Result<()> {
    let failed = |located: &Located, error| StoreError::io("copy", &located.path)(error);
    let own = Path::new("the new rollout");
    file.write_all(header).map_err(StoreError::io("write", own))?;
    let Some(located) = copied else { return Ok(()) };
    let mut source = content::open_decoded_reader(located)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut length = header.len() as u64;
    let mut last_line_start = length;
    loop {
        let count = match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(content::read_error(located, error)),
        };
        file.write_all(&chunk[..count]).map_err(|error| failed(located, error))?;
        if let Some(newline) = memchr::memrchr(b'\n', &chunk[..count]) {
            last_line_start = length + newline as u64 + 1;
        }
        length += count as u64;
    }
    end_with_whole_line(file, last_line_start, length).map_err(|error| failed(located, error))?;
    Ok(())
}

/// Cuts or completes the last line of `file`: without a newline at its end it is kept, with one added, if it is whole
/// JSON, and dropped if it is torn. Answers the length then.
///
/// # Errors
/// As the file's.
pub(super) fn end_with_whole_line(file: &mut File, last_line_start: u64, length: u64) -> io::Result<u64> {
    if last_line_start == length {
        return Ok(length);
    }
    file.seek(io::SeekFrom::Start(last_line_start))?;
    let tail = io::BufReader::new(&*file).take(length - last_line_start);
    if serde_json::from_reader::<_, serde::de::IgnoredAny>(tail).is_ok() {
        file.seek(io::SeekFrom::Start(length))?;
        io::Write::write_all(file, b"\n")?;
        return Ok(length + 1);
    }
    file.set_len(last_line_start)?;
    Ok(last_line_start)
}

/// The payload of a header: its values as text, in their order, so that what is not changed stays as it was written.
struct Payload(Vec<(String, Box<RawValue>)>);

impl Payload {
    fn get(&self, key: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// A value that is a string.
    fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// Changes a value, or adds one at the end.
    fn set(&mut self, key: &str, value: &impl Serialize) -> serde_json::Result<()> {
        self.set_behind("", key, value)
    }

    /// Changes a value, or adds one behind `before`, at the end where that is missing.
    fn set_behind(&mut self, before: &str, key: &str, value: &impl Serialize) -> serde_json::Result<()> {
        let value = to_raw_value(value)?;
        if let Some((_, old)) = self.0.iter_mut().find(|(name, _)| name == key) {
            *old = value;
            return Ok(());
        }
        let at = self.0.iter().position(|(name, _)| name == before).map_or(self.0.len(), |at| at + 1);
        self.0.insert(at, (key.to_owned(), value));
        Ok(())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Payload;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
                let mut pairs: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    if pairs.iter().any(|(other, _)| *other == key) {
                        return Err(de::Error::custom("a key is there twice"));
                    }
                    pairs.push((key, value));
                }
                Ok(Payload(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::super::archive::archived_path;
    use super::super::failpoint::crash;
    use super::super::metadata::Extractor;
    use super::*;

    const PARENT: &str = "0198c0de-0000-7000-8000-000000000001";

    struct Made {
        dir: TempDir,
        home: Home,
    }

    fn parent_name() -> RolloutName {
        RolloutName::parse(format!("rollout-2026-02-08T10-15-01-{PARENT}.jsonl").as_bytes()).unwrap()
    }

    impl Made {
        fn with(content: &str) -> Made {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(String::from_utf8(active_path(&parent_name())).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            let home = Home::open(dir.path()).unwrap();
            Made { dir, home }
        }

        fn fork(&self) -> Result<Forked> {
            fork(&self.home, &active_path(&parent_name()), &ForkOptions::default())
        }

        fn rollouts(&self) -> usize {
            let mut count = 0;
            super::super::archive::visit_rollouts(&self.home, &mut |_, _| count += 1).unwrap();
            count
        }
    }

    fn line(kind: &str, ordinal: Option<u64>, payload: Value) -> String {
        let ordinal = ordinal.map(|ordinal| format!("\"ordinal\":{ordinal},")).unwrap_or_default();
        format!(
            "{{\"timestamp\":\"2026-02-08T09:15:02.401Z\",{ordinal}\"type\":\"{kind}\",\"payload\":{payload}}}\n"
        )
    }

    fn header(more: &[(&str, Value)]) -> Value {
        let mut payload = json!({"id": PARENT, "timestamp": "2026-02-08T09:15:01.002Z", "cwd": "/srv/demo", "source": "cli",
            "originator": "codex_cli_rs", "cli_version": "0.101.0", "model_provider": "openai",
            "base_instructions": {"text": "be good"}, "git": {"branch": "main"}});
        more.iter().for_each(|(key, value)| payload[*key] = value.clone());
        payload
    }

    fn said(text: &str, ordinal: Option<u64>) -> String {
        line("event_msg", ordinal, json!({"type": "user_message", "message": text}))
    }

    fn own_header(forked: &Forked) -> Value {
        serde_json::from_str(fs::read_to_string(&forked.file).unwrap().lines().next().unwrap()).unwrap()
    }

    #[test]
    fn a_legacy_fork_has_its_own_header_and_then_every_line_of_its_parent() {
        let whole = line("session_meta", None, header(&[]))
            + &said("hello", None)
            + "not json\n"
            + &said("\u{4fee}", None);
        for (torn, kept) in [("", ""), ("{\"timestamp\":\"2026", ""), (said("last", None).trim_end(), "last")]
        {
            let made = Made::with(&(whole.clone() + torn));
            let forked = made.fork().unwrap();
            let text = fs::read_to_string(&forked.file).unwrap();
            let (_, copied) = text.split_once('\n').unwrap();
            let expected = if kept.is_empty() { whole.clone() } else { format!("{whole}{torn}\n") };
            assert_eq!(copied, expected, "the bytes of the parent");
            let own = own_header(&forked);
            assert!(own.get("ordinal").is_none());
            let payload = &own["payload"];
            assert_eq!((&payload["id"], &payload["forked_from_id"]), (&json!(forked.id), &json!(PARENT)));
            assert_eq!((&payload["cwd"], &payload["git"]["branch"]), (&json!("/srv/demo"), &json!("main")));
            assert_eq!(payload["originator"], ORIGINATOR);
            assert_eq!(payload["timestamp"], own["timestamp"]);
            assert!(payload.get("history_base").is_none() && !forked.is_reference);
            // What we read of it.
            let name = RolloutName::parse(split_path(forked.path.as_bytes()).1).unwrap();
            assert_eq!(name.thread_id(), forked.id);
            let mut extractor = Extractor::new(Some(&name));
            extractor.feed(text.as_bytes());
            let read = extractor.finish();
            assert_eq!(read.metadata.id, Some(forked.id));
            assert_eq!(read.metadata.forked_from_id, Some(PARENT.parse().unwrap()));
            assert_eq!(read.metadata.title, "hello");
            assert!(!read.torn);
        }
    }

    #[test]
    fn the_key_order_and_values_of_a_header_stay() {
        let raw = format!(
            "{{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{PARENT}\",\"timestamp\":\"t\",\"cwd\":\"/\",\"z\":1.00,\"a\":[ 1 ]}}}}\n"
        );
        let made = Made::with(&raw);
        let forked = made.fork().unwrap();
        let text = fs::read_to_string(&forked.file).unwrap();
        let first = text.lines().next().unwrap();
        let expected = format!(
            "\"type\":\"session_meta\",\"payload\":{{\"id\":\"{}\",\"forked_from_id\":\"{PARENT}\",\"timestamp\":",
            forked.id
        );
        assert!(first.contains(&expected), "{first}");
        assert!(
            first.ends_with("\"cwd\":\"/\",\"z\":1.00,\"a\":[ 1 ],\"originator\":\"rolloutfs\"}}"),
            "{first}"
        );
    }

    #[test]
    fn a_paginated_fork_names_the_exact_end_of_its_parent() {
        let meta = header(&[
            ("history_mode", json!("paginated")),
            ("session_id", json!(PARENT)),
            ("context_window", json!({"window_id": "w"})),
        ]);
        let whole =
            line("session_meta", Some(0), meta) + &said("hello", Some(1)) + "\n" + &said("two", Some(2));
        for compressed in [false, true] {
            for tail in ["", "broken\n", "{\"timestamp\":\"2026"] {
                let made = Made::with(&(whole.clone() + tail));
                let path = made.home.join(&active_path(&parent_name()));
                if compressed {
                    let packed = zstd::encode_all((whole.clone() + tail).as_bytes(), 3).unwrap();
                    fs::write(content::compressed_path(&path), packed).unwrap();
                    fs::remove_file(path).unwrap();
                }
                let forked = made.fork().unwrap();
                let own = own_header(&forked);
                let payload = &own["payload"];
                let base =
                    json!({"thread_id": PARENT, "end_ordinal_exclusive": 3, "end_byte_offset": whole.len()});
                assert_eq!(payload["history_base"], base, "{compressed} {tail}");
                assert_eq!(
                    (&own["ordinal"], &payload["forked_from_ordinal_exclusive"]),
                    (&json!(3), &json!(3))
                );
                assert_eq!(payload["session_id"], json!(forked.id));
                assert_ne!(payload["context_window"]["window_id"], "w");
                assert!(forked.is_reference);
                assert_eq!(fs::read_to_string(&forked.file).unwrap().lines().count(), 1);
            }
        }
    }

    #[test]
    fn a_fork_of_a_reverted_thread_names_the_rollout_and_not_the_thread() {
        let made = Made::with("");
        let rollout: ThreadId = "0198c0de-0000-7000-8000-0000000000bb".parse().unwrap();
        let base = json!({"thread_id": PARENT, "end_ordinal_exclusive": 5, "end_byte_offset": 100});
        let meta = header(&[("history_mode", json!("paginated")), ("history_base", base)]);
        let content = line("session_meta", Some(5), meta) + &said("x", Some(6));
        let name = format!("rollout-2026-02-08T11-00-00-{PARENT}_{rollout}.jsonl");
        let path = archived_path(&RolloutName::parse(name.as_bytes()).unwrap());
        fs::create_dir(made.dir.path().join("archived_sessions")).unwrap();
        fs::write(made.home.join(&path), &content).unwrap();
        let forked = fork(&made.home, &path, &ForkOptions::default()).unwrap();
        let payload = own_header(&forked)["payload"].clone();
        let expected =
            json!({"thread_id": rollout, "end_ordinal_exclusive": 7, "end_byte_offset": content.len()});
        assert_eq!((&payload["history_base"], &payload["forked_from_id"]), (&expected, &json!(PARENT)));
    }

    #[test]
    fn a_fork_is_listed_by_codex() {
        for (source, expected) in [("cli", "cli"), ("vscode", "vscode"), ("exec", "cli"), ("mcp", "cli")] {
            let made = Made::with(&line("session_meta", None, header(&[("source", json!(source))])));
            assert_eq!(own_header(&made.fork().unwrap())["payload"]["source"], expected, "{source}");
        }
    }

    #[test]
    fn a_sub_agent_becomes_a_thread_of_the_user_in_the_folder_that_was_given() {
        let spawn = json!({"subagent": {"thread_spawn": {"parent_thread_id": PARENT, "depth": 1}}});
        let more = [
            ("source", spawn),
            ("agent_nickname", json!("Ada")),
            ("parent_thread_id", json!(PARENT)),
            ("runtime_workspace_roots", json!(["/srv/demo"])),
        ];
        let made = Made::with(&line("session_meta", None, header(&more)));
        let options = ForkOptions { cwd: Some("/srv/other".to_owned()) };
        let forked = fork(&made.home, &active_path(&parent_name()), &options).unwrap();
        let payload = own_header(&forked)["payload"].clone();
        assert_eq!((&payload["source"], &payload["cwd"]), (&json!("cli"), &json!("/srv/other")));
        assert_eq!(payload["runtime_workspace_roots"], json!(["/srv/other"]));
        for key in ["agent_nickname", "parent_thread_id", "git"] {
            assert!(payload.get(key).is_none(), "{key}");
        }
    }

    #[test]
    fn what_codex_could_not_read_is_refused_and_nothing_is_left() {
        let paginated =
            |ordinal| line("session_meta", ordinal, header(&[("history_mode", json!("paginated"))]));
        let cases = [
            (String::new(), "no header"),
            (format!("{{\"id\":\"{PARENT}\",\"timestamp\":\"2025-08-01T10:00:00.000Z\"}}\n"), "no header"),
            (
                line("session_meta", None, header(&[("history_mode", json!("quantum"))])),
                "history mode is quantum",
            ),
            (paginated(None), "no ordinal"),
            (paginated(Some(0)) + &said("older Codex", None), "no ordinal"),
        ];
        for (content, reason) in cases {
            let made = Made::with(&content);
            let refused = made.fork().unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
            assert_eq!(made.rollouts(), 1);
        }
        let made = Made::with("");
        fs::remove_file(made.home.join(&active_path(&parent_name()))).unwrap();
        assert!(matches!(made.fork(), Err(StoreError::NotFound { .. })));
        let damaged = content::compressed_path(&made.home.join(&active_path(&parent_name())));
        fs::write(damaged, "no zstd").unwrap();
        assert!(matches!(made.fork(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn an_over_long_last_line_still_has_its_ordinal() {
        let meta = line("session_meta", Some(0), header(&[("history_mode", json!("paginated"))]));
        let long = line(
            "event_msg",
            Some(1),
            json!({"type": "x", "text": "y".repeat(super::super::rollout::LINE_BYTES_MAX)}),
        );
        let length = meta.len() + long.len();
        let made = Made::with(&(meta + &long));
        let forked = own_header(&made.fork().unwrap());
        assert_eq!(forked["payload"]["history_base"]["end_byte_offset"], json!(length));
        assert_eq!(forked["ordinal"], 2);
        for (head, expected) in [
            ("{\"ordinal\":12,\"type\":", Some(12)),
            ("{\"type\":\"x\",\"payload\":{\"ordinal\":12,", None),
            ("{\"ordinal\":", None),
            ("", None),
        ] {
            assert_eq!(ordinal_of_head(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn the_child_of_the_crash_test() {
        let Some((home, _)) = crash::asked() else { return };
        fork(&Home::open(&home).unwrap(), &active_path(&parent_name()), &ForkOptions::default()).unwrap();
    }

    #[test]
    fn a_crash_leaves_no_half_fork() {
        let content = line("session_meta", None, header(&[])) + &said("hello", None);
        for (point, forks) in [("fork.written", 0), ("place.moved", 1), ("fork.placed", 1)] {
            let made = Made::with(&content);
            let test = "store::fork::tests::the_child_of_the_crash_test";
            assert!(crash::child_aborts(test, made.dir.path(), "", point), "{point}");
            assert_eq!(made.rollouts(), 1 + forks, "{point}");
            made.fork().unwrap();
            assert_eq!(made.rollouts(), 2 + forks, "{point}");
        }
    }

    #[test]
    fn the_mode_is_that_of_the_parent_and_open_to_its_owner() {
        let made = Made::with(&line("session_meta", None, header(&[])));
        let parent = made.home.join(&active_path(&parent_name()));
        for (mode, expected) in [(0o644, 0o644), (0o400, 0o600), (0o440, 0o640)] {
            fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
            let forked = made.fork().unwrap();
            assert_eq!(fs::metadata(forked.file).unwrap().mode() & 0o7777, expected);
        }
    }

    #[test]
    fn the_last_line_ends_whole_or_goes() {
        for (content, expected) in [
            ("{\"a\":1}\n", "{\"a\":1}\n"),
            ("{\"a\":1}\n{\"b\":2}", "{\"a\":1}\n{\"b\":2}\n"),
            ("{\"a\":1}\n{\"b\":", "{\"a\":1}\n"),
            ("", ""),
            ("{\"b\":", ""),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let start = content.rfind('\n').map_or(0, |at| at as u64 + 1);
            let length = end_with_whole_line(&mut file, start, content.len() as u64).unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), length), (expected, expected.len() as u64));
        }
    }
}
