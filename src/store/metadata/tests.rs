//! Do the metadata rules hold, case by case (spec 2.8, 5, 11.2), for every chunking and every resume?

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::*;
use crate::store::rollout::{LINE_BYTES_MAX, LINE_HEAD_BYTES_MAX};

const ID: &str = "0198c0de-0000-7000-8000-000000000001";
const OTHER: &str = "0198c0de-0000-7000-8000-000000000002";
const ROLLOUT: &str = "0198c0de-0000-7000-8000-000000000003";
const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
/// 2026-02-08T10:15:01Z
const NAME_MS: i64 = 1_770_545_701_000;
/// 2026-02-08T09:15:01.002Z
const META_MS: i64 = 1_770_542_101_002;

fn id(text: &str) -> Option<ThreadId> {
    Some(text.parse().unwrap())
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn line(kind: &str, payload: Value) -> String {
    format!("{{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n")
}

/// A `session_meta` with `more` fields over the usual ones; null takes a field away.
fn meta(more: Value) -> String {
    let mut payload = json!({"id": ID, "timestamp": "2026-02-08T09:15:01.002Z", "cwd": "/srv/demo",
        "originator": "codex_cli_rs", "cli_version": "0.99.0", "source": "cli", "model_provider": "openai"});
    for (key, value) in more.as_object().unwrap() {
        payload[key] = value.clone();
    }
    payload.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    line("session_meta", payload)
}

fn event(payload: Value) -> String {
    line("event_msg", payload)
}

fn user(text: &str) -> String {
    event(json!({"type": "user_message", "message": text, "images": null, "local_images": []}))
}

fn turn(more: Value) -> String {
    let mut payload = json!({"cwd": "/turn", "approval_policy": "never",
        "sandbox_policy": {"type": "danger-full-access"}, "model": "m-1", "effort": "high", "summary": "auto"});
    for (key, value) in more.as_object().unwrap() {
        payload[key] = value.clone();
    }
    line("turn_context", payload)
}

fn goal(objective: &str) -> String {
    event(
        json!({"type": "thread_goal_updated", "thread_id": ID, "goal": {"objective": objective, "status": "active"}}),
    )
}

fn settings(thread_settings: Value) -> String {
    event(json!({"type": "thread_settings_applied", "thread_id": ID, "thread_settings": thread_settings}))
}

fn tokens(info: Value) -> String {
    event(json!({"type": "token_count", "info": info, "rate_limits": null}))
}

fn total(tokens: i64) -> Value {
    json!({"total_token_usage": {"input_tokens": 1, "total_tokens": tokens}, "model_context_window": null})
}

fn named(thread: &str, name: Value) -> String {
    event(json!({"type": "thread_name_updated", "thread_id": thread, "thread_name": name}))
}

fn extract_named(name: Option<&str>, bytes: &[u8]) -> Extracted {
    let name = name.map(|name| RolloutName::parse(name.as_bytes()).unwrap());
    let mut extractor = Extractor::new(name.as_ref());
    extractor.feed(bytes);
    extractor.finish()
}

fn extract(bytes: impl AsRef<[u8]>) -> Extracted {
    extract_named(Some(NAME), bytes.as_ref())
}

fn metadata(lines: &[String]) -> ThreadMetadata {
    let found = extract(lines.concat());
    assert_eq!(found.parse_errors, 0, "{lines:?}");
    found.metadata
}

/// What `meta(json!({}))` alone gives.
fn usual() -> ThreadMetadata {
    ThreadMetadata {
        id: id(ID),
        created_at_ms: META_MS,
        updated_at_ms: META_MS,
        source: "cli".into(),
        model_provider: "openai".into(),
        cwd: "/srv/demo".into(),
        cli_version: "0.99.0".into(),
        sandbox_policy: "read-only".into(),
        approval_mode: "on-request".into(),
        originator: some("codex_cli_rs"),
        ..ThreadMetadata::default()
    }
}

/// Spec 11.2: lines, and how the result differs from [`usual`].
#[test]
fn extraction_of_spec_11_2() {
    type Change = fn(&mut ThreadMetadata);
    let started = || meta(json!({}));
    let response = |role: &str, text: &str| {
        line(
            "response_item",
            json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}),
        )
    };
    let attached =
        |text: &str, key: &str| event(json!({"type": "user_message", "message": text, key: ["x"]}));
    let cases: Vec<(&str, Vec<String>, Change)> = vec![
        ("1 session_meta only", vec![started()], |_| ()),
        ("2 polluted by a second meta", vec![started(), meta(json!({"memory_mode": "polluted"}))], |m| {
            m.memory_mode = some("polluted");
        }),
        (
            "2 kept by a third without a mode",
            vec![started(), meta(json!({"memory_mode": "disabled"})), started()],
            |m| {
                m.memory_mode = some("disabled");
            },
        ),
        ("5 response_item of the user", vec![started(), response("user", "hello")], |_| ()),
        (
            "6 request behind the marker",
            vec![started(), user("# Context\n\n## My request for Codex:\n fix it\n")],
            |m| {
                m.title = "fix it".into();
                m.preview = "fix it".into();
                m.first_user_message = some("fix it");
            },
        ),
        ("6 marker with nothing behind", vec![started(), user("ctx ## My request for Codex: ")], |_| ()),
        ("7 image alone", vec![started(), attached(" ", "images")], |m| {
            m.preview = "[Image]".into();
            m.first_user_message = some("[Image]");
        }),
        (
            "7 local image alone, text later",
            vec![started(), attached("", "local_images"), user(" two\nlines ")],
            |m| {
                m.preview = "[Image]".into();
                m.first_user_message = some("[Image]");
                m.title = "two\nlines".into();
            },
        ),
        ("8 audio alone", vec![started(), attached("", "audio")], |m| {
            m.preview = "[Audio]".into();
            m.first_user_message = some("[Audio]");
        }),
        ("8 local audio alone", vec![started(), attached("", "local_audio")], |m| {
            m.preview = "[Audio]".into();
            m.first_user_message = some("[Audio]");
        }),
        ("9 blank", vec![started(), user(" \n\t")], |_| ()),
        ("10 goal first, user later", vec![started(), goal("ship it"), user("hello"), goal("other")], |m| {
            m.preview = "ship it".into();
            m.first_user_message = some("hello");
            m.title = "hello".into();
        }),
        ("11 session cwd kept", vec![started(), turn(json!({}))], |m| {
            with_turn(m);
        }),
        (
            "12 empty cwd set by the turn",
            vec![meta(json!({"cwd": ""})), turn(json!({})), turn(json!({"cwd": "/b"}))],
            |m| {
                with_turn(m);
                m.cwd = "/turn".into();
                m.last_cwd = some("/b");
            },
        ),
        (
            "13 meta of another id",
            vec![
                started(),
                meta(
                    json!({"id": OTHER, "cwd": "/other", "source": "exec", "git": {"branch": "b"}, "agent_role": "r"}),
                ),
            ],
            |_| (),
        ),
        (
            "14 the last turn counts",
            vec![started(), turn(json!({"model": "m-0", "effort": "low", "cwd": "/a"})), turn(json!({}))],
            |m| with_turn(m),
        ),
        (
            "14 policies as words and objects, no effort",
            vec![
                started(),
                turn(json!({})),
                turn(
                    json!({"approval_policy": {"granular": {"a": true}}, "sandbox_policy": "read-only", "effort": null}),
                ),
            ],
            |m| {
                with_turn(m);
                m.approval_mode = r#"{"granular":{"a":true}}"#.into();
                m.sandbox_policy = "read-only".into();
                m.reasoning_effort = None;
            },
        ),
        ("15 info null leaves the count", vec![started(), tokens(total(980)), tokens(Value::Null)], |m| {
            m.tokens_used = 980
        }),
        ("15 negative is none", vec![started(), tokens(total(980)), tokens(total(-5))], |m| {
            m.tokens_used = 0
        }),
        ("17 time in the style of names", vec![meta(json!({"timestamp": "2025-08-01T10-00-00"}))], |m| {
            m.created_at_ms = 1_754_042_400_000;
            m.updated_at_ms = m.created_at_ms;
        }),
        ("17 time with an offset", vec![meta(json!({"timestamp": "2026-02-08T10:15:01.002+01:00"}))], |_| ()),
        ("17 time unreadable: that of the name", vec![meta(json!({"timestamp": "yesterday"}))], |m| {
            m.created_at_ms = NAME_MS;
            m.updated_at_ms = NAME_MS;
        }),
    ];
    for (case, lines, change) in cases {
        let mut expected = usual();
        change(&mut expected);
        let found = extract(lines.concat());
        assert_eq!(found.metadata, expected, "{case}");
        assert_eq!(
            (found.parse_errors, found.has_header, found.shape),
            (0, true, Shape::Enveloped),
            "{case}"
        );
        assert_eq!((found.lines, found.items), (lines.len() as u64, lines.len() as u64), "{case}");
    }
}

/// What `turn(json!({}))` adds.
fn with_turn(metadata: &mut ThreadMetadata) {
    metadata.approval_mode = "never".into();
    metadata.sandbox_policy = r#"{"type":"danger-full-access"}"#.into();
    metadata.model = some("m-1");
    metadata.reasoning_effort = some("high");
    metadata.last_cwd = some("/turn");
}

/// Spec 11.2, cases 3 and 4.
#[test]
fn identity_from_the_name_or_not_at_all() {
    let compacted = line("compacted", json!({"message": ""}));
    let found = extract(&compacted);
    let expected = ThreadMetadata {
        id: id(ID),
        created_at_ms: NAME_MS,
        updated_at_ms: NAME_MS,
        source: "vscode".into(),
        sandbox_policy: "read-only".into(),
        approval_mode: "on-request".into(),
        ..ThreadMetadata::default()
    };
    assert_eq!(found.metadata, expected);
    assert_eq!((found.has_header, found.items), (false, 1));

    let nameless = extract_named(None, compacted.as_bytes());
    assert_eq!(
        nameless.metadata,
        ThreadMetadata { id: None, created_at_ms: 0, updated_at_ms: 0, ..expected }
    );
    assert!(!nameless.has_header);
}

/// Spec 11.2, case 16.
#[test]
fn differing_fields_are_exactly_those() {
    let one = usual();
    assert_eq!(one.differing_fields(&usual()), Vec::<&str>::new());
    let mut two = usual();
    two.updated_at_ms += 1;
    two.cwd = "/else".into();
    two.title = "t".into();
    two.git_branch = some("b");
    assert_eq!(one.differing_fields(&two), ["updated_at_ms", "cwd", "title", "git_branch"]);
    assert_eq!(ThreadMetadata::default().differing_fields(&usual()).len(), 10);
}

#[test]
fn later_headers_of_the_same_id() {
    let git =
        json!({"commit_hash": "4f1d2c", "branch": "main", "repository_url": "https://example.org/demo.git"});
    let second = json!({"source": "exec", "originator": "other", "model_provider": null, "cwd": "", "cli_version": "1.0.0",
        "agent_nickname": "Ada", "agent_type": "explorer", "agent_path": "/root/ada", "thread_source": "subagent",
        "history_mode": "paginated", "session_id": OTHER});
    let found = metadata(&[
        meta(json!({"git": git})),
        meta(second),
        meta(json!({"id": OTHER, "memory_mode": "polluted"})),
    ]);
    let expected = ThreadMetadata {
        source: "exec".into(),
        cli_version: "1.0.0".into(),
        agent_nickname: some("Ada"),
        agent_role: some("explorer"),
        agent_path: some("/root/ada"),
        thread_source: some("subagent"),
        history_mode: some("paginated"),
        session_id: id(OTHER),
        memory_mode: some("polluted"),
        git_sha: some("4f1d2c"),
        git_branch: some("main"),
        git_origin_url: some("https://example.org/demo.git"),
        ..usual()
    };
    assert_eq!(found, expected);
    // The last header that has `git` gives all three.
    let found =
        metadata(&[meta(json!({"git": git})), meta(json!({"git": {"branch": "next"}})), meta(json!({}))]);
    assert_eq!((found.git_sha, found.git_branch, found.git_origin_url), (None, some("next"), None));
}

#[test]
fn sources_in_database_form() {
    let spawn = format!(
        r#"{{"subagent":{{"thread_spawn":{{"parent_thread_id":"{OTHER}","depth":1,"agent_path":null,"agent_nickname":"Ada","agent_role":"explorer"}}}}}}"#
    );
    let cases = [
        ("\"cli\"", "cli"),
        ("\"mcp\"", "mcp"),
        ("\"brand new\"", "unknown"),
        ("null", "vscode"),
        (r#"{"custom": "atlas"}"#, r#"{"custom":"atlas"}"#),
        (r#"{"subagent":"review"}"#, r#"{"subagent":"review"}"#),
        (&spawn, &spawn),
    ];
    for (source, expected) in cases {
        let text = meta(json!({"source": "SOURCE"})).replace("\"SOURCE\"", source);
        let found = metadata(&[text]);
        assert_eq!(found.source, expected);
        let spawned = expected == spawn;
        assert_eq!(found.parent_thread_id, if spawned { id(OTHER) } else { None });
        assert_eq!(found.agent_nickname, spawned.then(|| "Ada".to_owned()));
        assert_eq!(found.agent_role, spawned.then(|| "explorer".to_owned()));
        assert_eq!(found.agent_path, None);
    }
    assert_eq!(metadata(&[meta(json!({"source": null}))]).source, "vscode");
}

#[test]
fn parents_forks_and_history_bases() {
    let base = json!({"thread_id": ROLLOUT, "end_ordinal_exclusive": 9, "end_byte_offset": 4711});
    let found = metadata(&[meta(
        json!({"parent_thread_id": OTHER, "forked_from_id": ROLLOUT, "history_base": base}),
    )]);
    assert_eq!(found.parent_thread_id, id(OTHER));
    assert_eq!(found.forked_from_id, id(ROLLOUT));
    assert_eq!(found.history_base_id, id(ROLLOUT));
}

#[test]
fn completed_user_messages() {
    let item = |kind: &str, content: Value| {
        event(
            json!({"type": "item_completed", "thread_id": ID, "turn_id": "t", "item": {"type": kind, "id": "i", "content": content}}),
        )
    };
    let text = |text: &str| json!({"type": "text", "text": text, "text_elements": []});
    let cases = [
        ("UserMessage", json!([text("Hello "), text("world")]), "Hello world", "Hello world"),
        ("userMessage", json!([text("ctx ## My request for Codex: hi")]), "hi", "hi"),
        ("usermessage", json!([{"type": "image", "image_url": "data:x"}]), "[Image]", ""),
        ("UserMessage", json!([{"type": "local_image", "path": "/a.png"}, text(" ")]), "[Image]", ""),
        ("UserMessage", json!([{"type": "localImage", "path": "/a.png"}, text("see")]), "see", "see"),
        ("UserMessage", json!([{"type": "audio", "audio_url": "x"}]), "[Audio]", ""),
        ("UserMessage", json!([{"type": "skill", "name": "x"}]), "", ""),
        ("UserMessage", json!([]), "", ""),
        ("AgentMessage", json!([text("no")]), "", ""),
    ];
    for (kind, content, preview, title) in cases {
        let found = metadata(&[meta(json!({})), item(kind, content.clone())]);
        assert_eq!((&*found.preview, &*found.title), (preview, title), "{kind} {content}");
        assert_eq!(found.first_user_message.unwrap_or_default(), preview, "{kind} {content}");
    }
}

#[test]
fn settings_override_and_late_headers_do_not_undo_more_than_they_say() {
    let new = json!({"model": "m-2", "model_provider_id": "mock", "cwd": "/settings", "approval_policy": "never",
        "permission_profile": {"type": "disabled"}});
    let found = metadata(&[meta(json!({})), turn(json!({})), settings(new.clone())]);
    let applied = ThreadMetadata {
        model: some("m-2"),
        model_provider: "mock".into(),
        cwd: "/settings".into(),
        last_cwd: some("/settings"),
        approval_mode: "never".into(),
        sandbox_policy: r#"{"type":"disabled"}"#.into(),
        ..usual()
    };
    assert_eq!(found, applied);
    // The header comes last: what it says is applied in its place, the rest of the settings stays.
    let found = metadata(&[
        settings(new.clone()),
        turn(json!({"cwd": "/t", "approval_policy": null})),
        meta(json!({})),
    ]);
    let expected = ThreadMetadata {
        cwd: "/srv/demo".into(),
        model_provider: "openai".into(),
        last_cwd: some("/t"),
        model: some("m-1"),
        reasoning_effort: some("high"),
        sandbox_policy: r#"{"type":"danger-full-access"}"#.into(),
        ..applied.clone()
    };
    assert_eq!(found, expected);
    let late = meta(json!({"cwd": null, "model_provider": null, "cli_version": null}));
    let found = metadata(&[user("hello"), settings(new), late]);
    let hello = ThreadMetadata {
        cli_version: String::new(),
        title: "hello".into(),
        preview: "hello".into(),
        first_user_message: some("hello"),
        ..applied
    };
    assert_eq!(found, hello);
}

#[test]
fn names_given_in_the_rollout() {
    let start = || meta(json!({}));
    let cases: Vec<(&str, Vec<String>, Option<&str>)> = vec![
        ("last one", vec![start(), named(ID, json!("a")), named(ID, json!("b"))], Some("b")),
        ("taken away", vec![start(), named(ID, json!("a")), named(ID, Value::Null)], None),
        ("of the parent", vec![start(), named(ID, json!("a")), named(OTHER, json!("b"))], Some("a")),
        ("before the header", vec![named(ID, json!("a")), start()], Some("a")),
    ];
    for (case, lines, expected) in cases {
        assert_eq!(metadata(&lines).name_hint.as_deref(), expected, "{case}");
    }
    // Without a name of the file nothing is known before the header.
    let foreign = [named(OTHER, json!("b")), start()].concat();
    assert_eq!(extract_named(None, foreign.as_bytes()).metadata.name_hint, None);
}

/// Spec 2.8: bytes, then lines, items, parse errors, glued, torn, shape.
#[test]
fn tolerant_reading() {
    struct Case(&'static str, Vec<u8>, [u64; 4], bool, Shape);
    let case = |what, bytes: &[u8], counts, torn, shape| Case(what, bytes.to_vec(), counts, torn, shape);
    let (start, hello) = (meta(json!({})), user("hello"));
    let (start, hello) = (start.trim_end(), hello.trim_end());
    let utf8 = hello.replace("hello", "\u{fffd}").into_bytes();
    let at = utf8.iter().position(|byte| *byte == 0xef).unwrap();
    let invalid = [&utf8[..at], b"\xff\xfe", &utf8[at + 3..]].concat();
    let (enveloped, empty) = (Shape::Enveloped, Shape::Empty);
    let cases = [
        case("empty file", b"", [0, 0, 0, 0], false, empty),
        case("white space only", b" \n\r\n\t\n\0\0", [0, 0, 0, 0], false, empty),
        case("blank lines", format!("{start}\n\n \n{hello}\n\n").as_bytes(), [2, 2, 0, 0], false, enveloped),
        case("CRLF", format!("{start}\r\n\r\n{hello}\r\n").as_bytes(), [2, 2, 0, 0], false, enveloped),
        case(
            "NULs around",
            format!("\0\0{start}\n\0\0{hello}\0\n\0\0\0").as_bytes(),
            [2, 2, 0, 0],
            false,
            enveloped,
        ),
        case("not JSON", format!("{start}\nnot json\n{hello}\n").as_bytes(), [3, 2, 1, 0], false, enveloped),
        case(
            "no line",
            format!("{start}\n[1]\n{{}}\n7\n{hello}\n").as_bytes(),
            [5, 2, 3, 0],
            false,
            enveloped,
        ),
        case(
            "unknown kind",
            format!("{start}\n{}{hello}\n", line("brand_new", json!({}))).as_bytes(),
            [3, 2, 1, 0],
            false,
            enveloped,
        ),
        case(
            "wrong field types",
            format!(
                "{start}\n{}{}{}{}{}{hello}\n",
                meta(json!({"cwd": 7})),
                meta(json!({"id": "no uuid"})),
                line("session_meta", json!([ID])),
                event(json!({"type": "user_message", "message": 7})),
                event(json!({"message": "no type"})),
            )
            .as_bytes(),
            [7, 2, 5, 0],
            false,
            enveloped,
        ),
        case(
            "unknown event, unknown keys",
            format!("{start}\n{}{hello}\n", event(json!({"type": "brand_new", "x": [1]}))).as_bytes(),
            [3, 3, 0, 0],
            false,
            enveloped,
        ),
        case(
            "invalid UTF-8",
            &[start.as_bytes(), b"\n", &invalid, b"\n", hello.as_bytes(), b"\n"].concat(),
            [3, 2, 1, 0],
            false,
            enveloped,
        ),
        case("glued", format!("{start}{hello}\n").as_bytes(), [1, 2, 1, 1], false, enveloped),
        case(
            "cut, next glued on",
            format!("{start}\n{}{hello}\n", &start[..60]).as_bytes(),
            [2, 2, 1, 1],
            false,
            enveloped,
        ),
        case(
            "last line cut",
            format!("{start}\n{hello}\n{}", &start[..60]).as_bytes(),
            [3, 2, 1, 0],
            true,
            enveloped,
        ),
        case("no last newline", format!("{start}\n{hello}").as_bytes(), [2, 2, 0, 0], false, enveloped),
        case(
            "glued and cut last",
            format!("{start}\n{hello}{}", &start[..9]).as_bytes(),
            [2, 2, 1, 1],
            true,
            enveloped,
        ),
        case(
            "records of the bare era inside",
            format!("{start}\n{{\"record_type\":\"state\"}}\n{hello}\n").as_bytes(),
            [3, 2, 0, 0],
            false,
            Shape::Mixed,
        ),
        case(
            "ordinals",
            format!("{start}\n{hello}\n")
                .replace("\"type\":\"event_msg\"", "\"ordinal\":7,\"type\":\"event_msg\"")
                .as_bytes(),
            [2, 2, 0, 0],
            false,
            enveloped,
        ),
    ];
    for Case(what, bytes, counts, torn, shape) in cases {
        let found = extract(&bytes);
        let found_counts = [found.lines, found.items, found.parse_errors, found.glued];
        assert_eq!((found_counts, found.torn, found.shape), (counts, torn, shape), "{what}");
        assert_eq!(found.total_bytes, bytes.len() as u64, "{what}");
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        assert_eq!(found.indexed_bytes, complete as u64, "{what}");
        assert_eq!(found.has_header, shape != empty, "{what}");
        assert_eq!(found.metadata.title, if shape == empty { "" } else { "hello" }, "{what}");
    }
}

#[test]
fn last_line_without_newline_is_in_the_metadata_and_not_in_the_resume_state() {
    let whole = [meta(json!({})), user("hello")].concat();
    let found = extract(whole.trim_end());
    assert_eq!(found.metadata.title, "hello");
    assert_eq!(found.resume.unpacked().metadata.title, "");
    let mut extractor = Extractor::resume(&found.resume);
    extractor.feed(&whole.as_bytes()[found.indexed_bytes as usize..]);
    assert_eq!(extractor.finish(), extract(&whole));
}

#[test]
fn half_surrogates_are_replaced() {
    let hello = user("hello").replace("hello", r"a\ud83d\n\ude00z");
    assert_eq!(metadata(&[meta(json!({})), hello]).title, "a\u{fffd}\n\u{fffd}z");
}

#[test]
fn a_megabyte_of_base_instructions() {
    let long = "x \"y\" \\ ".repeat(1 << 17);
    let found =
        metadata(&[meta(json!({"base_instructions": {"text": long}, "instructions": long})), user("hello")]);
    let expected = ThreadMetadata {
        title: "hello".into(),
        preview: "hello".into(),
        first_user_message: some("hello"),
        ..usual()
    };
    assert_eq!(found, expected);
}

#[test]
fn over_long_lines_are_counted_by_their_kind() {
    let known = br#"{"timestamp":"t","type":"compacted","payload":{"message":""#.as_slice();
    let bare = br#"{"type":"message","role":"user","content":[{"type":"input_text","text":""#.as_slice();
    let cases =
        [(known, 0, Shape::Enveloped), (bare, 0, Shape::Mixed), (b"garbage".as_slice(), 1, Shape::Enveloped)];
    let chunk = vec![b'z'; 1 << 20];
    for (head, parse_errors, shape) in cases {
        let mut extractor = Extractor::new(None);
        extractor.feed(meta(json!({})).as_bytes());
        extractor.feed(head);
        (0..50).for_each(|_| extractor.feed(&chunk));
        let growing = extractor.clone().finish();
        assert!(growing.torn);
        assert_eq!(growing.over_long_lines, 1);
        extractor.feed(b"\"}}\n");
        extractor.feed(user("hello").as_bytes());
        let found = extractor.finish();
        assert_eq!(found.over_long_lines, 1);
        assert_eq!((found.parse_errors, found.shape, found.torn), (parse_errors, shape, false));
        assert_eq!((found.lines, found.items), (3, 3 - parse_errors));
        assert_eq!(found.metadata.title, "hello");
        assert_eq!(found.indexed_bytes, found.total_bytes);
    }
    const { assert!(LINE_HEAD_BYTES_MAX < LINE_BYTES_MAX) };
}

const BARE_HEADER: &str = r#"{"id":"5973b6c0-94b8-487b-a530-2aeb6098ae0e","timestamp":"2025-08-01T10:00:00.000Z","instructions":null,"git":{"commit_hash":"c","branch":"main","repository_url":"u"}}"#;

fn bare_user(texts: &[&str]) -> String {
    let content: Vec<Value> = texts.iter().map(|text| json!({"type": "input_text", "text": text})).collect();
    json!({"type": "message", "id": null, "role": "user", "content": content}).to_string()
}

#[test]
fn bare_era() {
    let environment = "<environment_context>\n  <cwd>/srv/old</cwd>\n  <approval_policy>never</approval_policy>\n</environment_context>";
    let lines = [
        BARE_HEADER.to_owned(),
        r#"{"record_type":"state"}"#.to_owned(),
        bare_user(&["# AGENTS.md instructions for /srv/old\n\nno"]),
        bare_user(&["<user_instructions>\nno\n</user_instructions>"]),
        bare_user(&[environment]),
        r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"no"}]}"#.to_owned(),
        bare_user(&["fix the", "build"]),
        bare_user(&[&environment.replace("/srv/old", "/srv/new"), "next"]),
        r#"{"type":"function_call","name":"shell","arguments":"{}","call_id":"c"}"#.to_owned(),
        r#"{"type":"function_call_output","call_id":"c","output":"x"}"#.to_owned(),
        r#"{"type":"reasoning","id":"r","summary":[],"encrypted_content":null}"#.to_owned(),
    ];
    let found = extract(lines.join("\n") + "\n");
    let expected = ThreadMetadata {
        id: id("5973b6c0-94b8-487b-a530-2aeb6098ae0e"),
        created_at_ms: 1_754_042_400_000,
        updated_at_ms: 1_754_042_400_000,
        source: "vscode".into(),
        cwd: "/srv/old".into(),
        last_cwd: some("/srv/new"),
        title: "fix the\nbuild".into(),
        preview: "fix the\nbuild".into(),
        first_user_message: some("fix the\nbuild"),
        sandbox_policy: "read-only".into(),
        approval_mode: "on-request".into(),
        git_sha: some("c"),
        git_branch: some("main"),
        git_origin_url: some("u"),
        ..ThreadMetadata::default()
    };
    assert_eq!(found.metadata, expected);
    assert_eq!((found.parse_errors, found.shape, found.has_header), (0, Shape::Bare, true));
    assert_eq!((found.lines, found.items), (11, 10));
}

#[test]
fn bare_edges() {
    let image = r#"{"type":"message","role":"user","content":[{"type":"input_image","image_url":"data:x"}]}"#;
    let found = extract(format!("{BARE_HEADER}\n{image}\n"));
    assert_eq!((&*found.metadata.preview, &*found.metadata.title), ("[Image]", ""));
    // Without a header the name serves, and the messages are read.
    let found = extract(bare_user(&["hello"]) + "\n");
    assert_eq!((found.has_header, found.shape, &*found.metadata.title), (false, Shape::Bare, "hello"));
    assert_eq!(found.metadata.id, id(ID));
    // Unreadable time, later headers: the first header counts, a session_meta counts more.
    let odd = BARE_HEADER.replace("2025-08-01T10:00:00.000Z", "then");
    let found = extract(format!("{odd}\n{BARE_HEADER}\n"));
    assert_eq!(found.metadata.created_at_ms, NAME_MS);
    let found = extract(format!("{BARE_HEADER}\n{}", meta(json!({}))));
    assert_eq!((found.metadata.id, found.shape), (id(ID), Shape::Mixed));
    // In a file with envelopes, what the user wrote is in events.
    let found = extract(meta(json!({})) + &bare_user(&["no"]) + "\n");
    assert_eq!((&*found.metadata.title, found.shape, found.parse_errors), ("", Shape::Mixed, 0));
}

#[test]
fn resume_state_survives_storage() {
    let found = extract([meta(json!({"git": {"branch": "b"}})), turn(json!({})), user("hello")].concat());
    let stored = serde_json::to_string(&found.resume).unwrap();
    assert_eq!(serde_json::from_str::<ResumeState>(&stored).unwrap(), found.resume);
    assert_eq!(found.resume.indexed_bytes(), found.total_bytes);
    assert_eq!(found.resume.unpacked().metadata, found.metadata);
    assert_eq!(stored.matches("hello").count(), 1, "long first words are stored once");
}

/// Lines of every kind, whole and damaged, without line ends.
fn fragments() -> Vec<Vec<u8>> {
    let texts = [
        meta(json!({})),
        meta(json!({"id": OTHER, "cwd": "/other", "memory_mode": "polluted"})),
        meta(json!({"cwd": "", "model_provider": null, "git": {"branch": "b"}})),
        turn(json!({})),
        turn(json!({"cwd": "/b", "effort": null})),
        user("hello \u{1f600}"),
        user(" "),
        goal("ship it"),
        settings(json!({"model": "m-2", "cwd": "/settings"})),
        tokens(total(7)),
        named(ID, json!("planb")),
        named(OTHER, json!("not planb")),
        line("brand_new", json!({})),
        line("response_item", json!({"type": "reasoning", "summary": []})),
        BARE_HEADER.to_owned(),
        bare_user(&["<environment_context><cwd>/e</cwd></environment_context>", "bare"]),
        "{\"record_type\":\"state\"}".to_owned(),
        "not json".to_owned(),
    ];
    let mut fragments: Vec<Vec<u8>> = texts.iter().map(|text| text.trim_end().as_bytes().to_vec()).collect();
    fragments.extend([b"\xff\xfe".to_vec(), b"\0\0".to_vec(), Vec::new(), b"  ".to_vec()]);
    let cut: Vec<Vec<u8>> = fragments.iter().map(|whole| whole[..whole.len() / 2].to_vec()).collect();
    fragments.extend(cut);
    fragments
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![6 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\n\n"), 1 => Just("")];
    let fragment = (prop::sample::select(fragments()), end);
    prop::collection::vec(fragment, 0..14).prop_map(|parts| {
        parts.into_iter().flat_map(|(text, end)| [text, end.as_bytes().to_vec()]).flatten().collect()
    })
}

fn cuts(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> =
        at.iter().map(|index| index.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    cuts
}

/// The same cases in every run, and no files of failures.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// One pass equals "builder from the first `session_meta` anywhere, then all items in order": with that
    /// line put in front as well, the builder's values are there before the first item.
    #[test]
    fn a_late_header_equals_a_builder_that_knows_it_before(
        lines in prop::collection::vec(prop::sample::select(vec![
            meta(json!({})),
            meta(json!({"id": OTHER, "cwd": "/other", "git": {"branch": "o"}})),
            meta(json!({"cwd": "", "model_provider": null, "git": {"branch": "b"}, "source": "exec"})),
            meta(json!({"cli_version": "", "originator": "", "timestamp": "2025-08-01T10-00-00", "agent_role": "r"})),
            meta(json!({"cwd": null, "memory_mode": "disabled", "history_mode": "paginated"})),
            turn(json!({})),
            turn(json!({"cwd": "", "effort": null})),
            settings(json!({"model": "m-2", "model_provider_id": "p", "cwd": "/s", "reasoning_effort": "low"})),
            settings(json!({"model": "m-3", "approval_policy": "untrusted"})),
            user("hello"),
            goal("ship it"),
            tokens(total(7)),
        ]), 0..12),
    ) {
        let is_meta = |line: &&String| line.contains("\"type\":\"session_meta\"");
        let first: Vec<String> = lines.iter().find(is_meta).cloned().into_iter().collect();
        let known_before = [first, lines.clone()].concat();
        prop_assert_eq!(metadata(&lines), metadata(&known_before));
    }

    #[test]
    fn any_chunking_and_any_growth_equal_one_pass(
        bytes in file(),
        is_named in any::<bool>(),
        chunks in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        growth in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let name = is_named.then(|| RolloutName::parse(NAME.as_bytes()).unwrap());
        let once = extract_named(is_named.then_some(NAME), &bytes);

        let mut chunked = Extractor::new(name.as_ref());
        let mut from = 0;
        for to in cuts(&bytes, &chunks) {
            chunked.feed(&bytes[from..to]);
            from = to;
        }
        prop_assert_eq!(&chunked.finish(), &once);

        let mut extractor = Extractor::new(name.as_ref());
        let mut found = None;
        for length in cuts(&bytes, &growth) {
            let from = extractor.state.indexed_bytes() as usize;
            extractor.feed(&bytes[from..length]);
            let step = extractor.finish();
            let stored = serde_json::to_vec(&step.resume).unwrap();
            extractor = Extractor::resume(&serde_json::from_slice(&stored).unwrap());
            found = Some(step);
        }
        prop_assert_eq!(found.as_ref(), Some(&once));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), joints in 0..4_usize) {
        let mut text = bytes.clone();
        for _ in 0..joints {
            text.extend_from_slice(b"{\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":");
            text.extend_from_slice(&bytes);
        }
        let found = extract(&text);
        prop_assert!(found.parse_errors <= found.lines);
        prop_assert_eq!(found.total_bytes, text.len() as u64);
    }
}

#[test]
fn the_index_keeps_all_of_it() {
    let text = |text: &str| Some(text.to_owned());
    let full = ThreadMetadata {
        title: "fix it".into(),
        preview: "fix it".into(),
        first_user_message: text("fix it"),
        git_branch: text(""),
        tokens_used: 7,
        ..ThreadMetadata::default()
    };
    let other = ThreadMetadata { preview: "[Image]".into(), first_user_message: text(""), ..full.clone() };
    let untitled = ThreadMetadata { first_user_message: text(""), ..ThreadMetadata::default() };
    for meta in [full, other, untitled, ThreadMetadata::default()] {
        let kept = meta.to_index_text();
        assert_eq!(ThreadMetadata::from_index_text(&kept), meta, "{kept}");
    }
    assert_eq!(ThreadMetadata::from_index_text("nonsense"), ThreadMetadata::default());
    assert_eq!(ThreadMetadata::from_index_text(""), ThreadMetadata::default());
}
