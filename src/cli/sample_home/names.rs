//! What are the sample's threads called? The lines of `session_index.jsonl` (spec 4): plain names, names
//! that are hard as file names, the same name twice, renames, lines of no use. Pure.

use super::clock;
use super::json::Object;
use super::plan::{Era, Layout, ODD_FROM_THREADS, Plan};
use super::prng::{Prng, Purpose, thread_id};
use super::text;

/// One in this many threads has a name, but [`NAMED_MIN`] have one in any home that is large enough.
const NAMED_EVERY: u64 = 10;
const NAMED_MIN: u64 = 25;
/// About how often each hard name is given.
const HARD_COPIES: u64 = 3;
/// One in this many named threads had another name before.
const RENAMED_EVERY: u64 = 6;
/// One in this many entries is of a thread whose rollout is gone.
const GONE_EVERY: u64 = 50;
/// Characters of the longest name.
const LONG_NAME_CHARS: usize = 400;

/// Names that a file system, a shell or a terminal stumbles over.
const HARD: &[&str] = &[
    "fix the build",
    "Fix The Build",
    "fix the build",
    "fix: auth/login (v2)",
    "..",
    ".env",
    "-rf",
    "CON",
    "nul.txt",
    "trailing. ",
    "100% done",
    "~/src",
    "\u{1f680} ship it \u{1f469}\u{200d}\u{1f680}",
    "\u{4fee}\u{590d} \u{767b}\u{5f55}/\u{6ce8}\u{518c}",
    "two\nlines\tand a tab",
    "caf\u{e9}",
    "cafe\u{301}",
    "right \u{202e}to left",
    "a:b*c?d\"e<f>g|h\\i",
    "fix the build~12345678",
    "nul \u{0} byte",
    "", // Stands for the name of LONG_NAME_CHARS.
];

/// The file, and how many threads with a rollout have a name.
pub(super) struct SessionIndex {
    pub(super) text: String,
    pub(super) named: u64,
    pub(super) renamed: u64,
    pub(super) last_ms: i64,
}

fn entry(id: &str, name: &str, updated_at: &str) -> String {
    let mut line = String::new();
    Object::write(&mut line, |o| {
        o.text("id", id).text("thread_name", name).text("updated_at", updated_at);
    });
    line.push('\n');
    line
}

fn plain_name(prng: &mut Prng) -> String {
    let mut name = String::new();
    let words = 2 + prng.below(3);
    text::push_sentence(&mut name, prng, words);
    name.pop(); // A name has no full stop.
    name
}

fn hard_name(at: usize) -> String {
    match HARD[at % HARD.len()] {
        "" => "long name \u{2013} ".chars().cycle().take(LONG_NAME_CHARS).collect(),
        name => name.to_owned(),
    }
}

/// RFC 3339 with nine digits, as the index has it.
fn updated_at(unix_ms: i64, prng: &mut Prng) -> String {
    let mut text = clock::rfc3339(unix_ms);
    text.pop();
    format!("{text}{:06}Z", prng.below(1_000_000))
}

/// The threads that have names: evenly spread over those that are not bare.
fn named(layout: &Layout) -> Vec<Plan> {
    let first =
        (0..layout.threads).find(|number| layout.plan(*number).era > Era::Bare).unwrap_or(layout.threads);
    let eligible = layout.threads - first;
    let least = if layout.threads < ODD_FROM_THREADS { 1 } else { NAMED_MIN };
    let wanted = (layout.threads / NAMED_EVERY).max(least).min(eligible);
    (0..wanted)
        .map(|at| layout.plan(first + at * eligible / wanted))
        .filter(|plan| plan.era > Era::Bare)
        .collect()
}

/// Makes the index of a home.
pub(super) fn session_index(layout: &Layout) -> SessionIndex {
    let plans = named(layout);
    let is_odd = layout.threads >= ODD_FROM_THREADS;
    let hard_every = (plans.len() as u64 / (HARD.len() as u64 * HARD_COPIES)).max(1);
    let mut entries: Vec<(i64, String)> = Vec::new();
    let mut renamed = 0;
    for (at, plan) in plans.iter().enumerate() {
        let mut prng = Prng::new(layout.seed, plan.number, Purpose::Name);
        let at = at as u64;
        let name = if is_odd && at.is_multiple_of(hard_every) {
            hard_name((at / hard_every) as usize)
        } else {
            plain_name(&mut prng)
        };
        let named_ms = plan.start_ms + 60_000 + prng.below(3_600_000) as i64;
        if at % RENAMED_EVERY == 2 {
            let before = plain_name(&mut prng);
            let stamp = updated_at(plan.start_ms + 30_000, &mut prng);
            entries.push((plan.start_ms + 30_000, entry(&plan.id, &before, &stamp)));
            renamed += 1;
        }
        let stamp = if is_odd && at == 5 { "unknown".to_owned() } else { updated_at(named_ms, &mut prng) };
        entries.push((named_ms, entry(&plan.id, &name, &stamp)));
        if is_odd && at % GONE_EVERY == 9 {
            let gone_id = thread_id(&mut prng, named_ms, true);
            entries.push((named_ms, entry(&gone_id, "a thread that is gone", &stamp)));
        }
    }
    entries.sort(); // By time; the text decides between equals, so that the order is always the same.
    let last_ms = entries.last().map_or(clock::LAST_MS, |(unix_ms, _)| *unix_ms).min(clock::LAST_MS);
    let mut lines: Vec<String> = entries.into_iter().map(|(_, line)| line).collect();
    if is_odd {
        lines.insert(lines.len() / 2, "{\"id\":\"01980000-0000-7000-8000-0000000000\n".to_owned());
        lines.insert(lines.len() / 3, "\n".to_owned());
    }
    SessionIndex { text: lines.concat(), named: plans.len() as u64, renamed, last_ms }
}

#[cfg(test)]
mod tests {
    use super::super::Size;
    use super::*;

    #[test]
    fn every_hard_name_is_given() {
        for threads in [30, 200, 5000] {
            let index = session_index(&Layout::new(threads, 4, Size::Tiny));
            let given: Vec<String> = index
                .text
                .lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .filter_map(|value| value["thread_name"].as_str().map(str::to_owned))
                .collect();
            for at in 0..HARD.len() {
                assert!(given.contains(&hard_name(at)), "{:?} with {threads} threads", hard_name(at));
            }
            assert!(given.iter().any(|name| name.chars().count() == LONG_NAME_CHARS));
            let bad =
                index.text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
            assert_eq!(bad.filter(|line| !line.is_empty()).count(), 1);
        }
    }

    #[test]
    fn a_small_home_has_plain_names_only() {
        let index = session_index(&Layout::new(9, 4, Size::Tiny));
        assert!(index.named > 0 && index.text.lines().count() as u64 == index.named + index.renamed);
        assert_eq!(session_index(&Layout::new(0, 4, Size::Tiny)).text, "");
    }
}
