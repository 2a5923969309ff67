//! What else lies in a home? Files that are no rollouts, and those beside them that never may be shown.

use super::clock;
use super::disk::Disk;
use super::plan::{Layout, ODD_FROM_THREADS, Plan};
use super::prng::{Prng, Purpose, thread_id};
use crate::store::error::Result;

/// Stands in `auth.json`, `config.toml`, `history.jsonl` and the log: no view may ever show it.
pub const HOME_SECRET: &str = "home-secret-of-the-sample";

/// Writes the files of the home itself, which are no threads and must not be shown.
pub(super) fn write_private(disk: &mut Disk<'_>) -> Result<()> {
    let auth = format!("{{\"OPENAI_API_KEY\":\"{HOME_SECRET}\",\"tokens\":null}}\n");
    let config = format!("model = \"gpt-5.5\"\n\n[sample]\ncomment = \"{HOME_SECRET}\"\n");
    let seconds = clock::LAST_MS / 1000;
    let history = format!(
        "{{\"session_id\":\"00000000-0000-4000-8000-000000000000\",\"ts\":{seconds},\"text\":\"{HOME_SECRET}\"}}\n"
    );
    disk.file("", "auth.json", auth.as_bytes(), clock::LAST_MS)?;
    disk.file("", "config.toml", config.as_bytes(), clock::LAST_MS)?;
    disk.file("", "history.jsonl", history.as_bytes(), clock::LAST_MS)?;
    disk.file("log", "codex-tui.log", HOME_SECRET.as_bytes(), clock::LAST_MS)
}

/// Writes what is found between rollouts; gives how many files that are no rollouts there are.
pub(super) fn write_strays(disk: &mut Disk<'_>, layout: &Layout) -> Result<u64> {
    if layout.threads < ODD_FROM_THREADS {
        return Ok(0);
    }
    let mut prng = Prng::new(layout.seed, 0, Purpose::Damage);
    let neighbour = |share: u64| -> Plan { layout.plan(layout.threads * share / 10) };
    let place = |plan: &Plan| format!("sessions/{}", clock::day_folder(plan.start_ms));
    let text = super::content::rollout(layout, &neighbour(5), None).text;
    let before = disk.files;

    let copied = neighbour(5);
    let name = copied.file_name_at(copied.start_ms).replace(".jsonl", " (1).jsonl");
    disk.file(&place(&copied), &name, text.as_bytes(), copied.start_ms)?;

    let noted = neighbour(6);
    disk.file(&place(&noted), "notes.txt", b"my own notes on this day\n", noted.start_ms)?;

    let compressing = neighbour(3);
    let frame = b"\x28\xb5\x2f\xfd half a frame";
    disk.file(&place(&compressing), "rollout-compress-k3VbQe.tmp", frame, compressing.start_ms)?;
    disk.file("archived_sessions", "rollout-compress-0aZ9xY.tmp", frame, clock::LAST_MS)?;

    let first_ms = clock::FIRST_DAY * clock::DAY_MS + 10 * clock::HOUR_MS;
    let old = format!("rollout-2024-11-20-{}.json", thread_id(&mut prng, first_ms, false));
    disk.file("sessions", &old, b"{\"session\":{\"timestamp\":\"2024-11-20\"},\"items\":[]}\n", first_ms)?;
    disk.file("sessions", "rollout-not-a-date.jsonl", b"{}\n", first_ms)?;

    // A folder with a rollout's name, and a day on which nothing is.
    let host = neighbour(8);
    let id = thread_id(&mut prng, host.start_ms, true);
    let folder = format!("{}/rollout-{}-{id}.jsonl", place(&host), clock::stamp(host.start_ms));
    disk.folder(&folder, host.start_ms)?;
    disk.folder("sessions/2024/11/19", first_ms)?;
    Ok(disk.files - before)
}
