//! Does every call that changes something do what `docs/SEMANTICS.md` says? Through the kernel, on the real program.
//!
//! What a call changed is asserted right after it, without waiting: the tree shows a change when its call returns.
#![allow(unreachable_pub, reason = "modules of tests")]

mod archive;
mod bad_input;
mod mount;
mod names;
mod owner;
mod pending;
mod record;
mod removal;
mod replay;
mod scratch;
mod tools;

use std::time::{Duration, Instant};

/// How long a test waits for what comes from outside.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Waits until `holds`; panics with what it said last.
pub fn wait_until<T>(what: &str, mut holds: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + WAIT_MAX;
    loop {
        match holds() {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= end => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The id of a test thread.
pub fn id(number: u64) -> String {
    format!("0198c0de-0000-7000-8000-{number:012x}")
}

/// The day of the test threads.
pub const DAY: &str = "sessions/2026/02/08";

/// The name of a thread's file.
pub fn name(number: u64) -> String {
    format!("rollout-2026-02-08T09-15-02-{}.jsonl", id(number))
}

/// The path of an active thread.
pub fn active(number: u64) -> String {
    format!("{DAY}/{}", name(number))
}

/// The path of an archived thread.
pub fn archived(number: u64) -> String {
    format!("archived_sessions/{}", name(number))
}

/// A line of a rollout.
pub fn line(kind: &str, payload: &str) -> String {
    format!("{{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n")
}

/// The first line of a thread; `extra` goes into its payload.
pub fn meta(number: u64, extra: &str) -> String {
    line(
        "session_meta",
        &format!(
            "{{\"id\":\"{}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":\"/src/app\",\
             \"originator\":\"codex_cli_rs\",\"cli_version\":\"0.99.0\",\"model_provider\":\"openai\"{extra}}}",
            id(number)
        ),
    )
}

/// What a user says.
pub fn user(message: &str) -> String {
    line("event_msg", &format!("{{\"type\":\"user_message\",\"message\":\"{message}\",\"images\":null}}"))
}

/// An item of the model.
pub fn item(text: &str) -> String {
    line(
        "response_item",
        &format!(
            "{{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{{\"type\":\"output_text\",\"text\":\"{text}\"}}]}}"
        ),
    )
}

/// A whole small thread.
pub fn thread(number: u64) -> String {
    meta(number, ",\"source\":\"cli\"") + &user(&format!("question {number}")) + &item("answer")
}

/// Writes threads into a home.
pub fn with_threads(home: &std::path::Path, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let file = home.join(active(number));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, thread(number)).unwrap();
    }
}
