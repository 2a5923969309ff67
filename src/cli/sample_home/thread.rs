//! Which files does one thread have? Its rollout, archived or compressed or damaged as planned, and the
//! copies of it that some have. Depends on `content`, `damage` and `disk`.

use super::content::{self, Rollout};
use super::disk::{self, Disk};
use super::plan::{Encoding, Era, Kind, Layout, Plan, Role};
use super::prng::{Prng, Purpose, thread_id};
use super::{Summary, clock, damage, text};
use crate::store::error::{Result, StoreError};

const ARCHIVE: &str = "archived_sessions";

fn day_folder(start_ms: i64) -> String {
    format!("sessions/{}", clock::day_folder(start_ms))
}

/// A rollout about to be written.
struct File<'a> {
    folder: &'a str,
    name: &'a str,
    bytes: &'a [u8],
    last_ms: i64,
    encoding: Encoding,
}

fn write_file(disk: &mut Disk<'_>, summary: &mut Summary, file: &File<'_>, is_broken: bool) -> Result<()> {
    summary.rollouts += 1;
    summary.decoded_bytes += file.bytes.len() as u64;
    summary.archived += u64::from(file.folder == ARCHIVE);
    summary.needles += u64::from(memchr::memmem::find(file.bytes, text::NEEDLE.as_bytes()).is_some());
    if file.encoding == Encoding::Plain {
        return disk.file(file.folder, file.name, file.bytes, file.last_ms);
    }
    let name = format!("{}.zst", file.name);
    let compressed = disk::compress(file.bytes, file.encoding == Encoding::ZstStreamed);
    let mut frame = compressed.map_err(StoreError::io("compress", name.as_ref()))?;
    if is_broken {
        frame.truncate(frame.len() * 2 / 3);
    }
    summary.compressed += 1;
    disk.file(file.folder, &name, &frame, file.last_ms)
}

fn count(summary: &mut Summary, plan: &Plan, all_plain: bool) {
    use Role::*;
    summary.threads += 1;
    summary.bare += u64::from(plan.era == Era::Bare);
    summary.paginated += u64::from(plan.is_paginated);
    summary.forks += u64::from(matches!(plan.kind, Kind::CopyFork | Kind::ReferenceFork));
    let is_labelled = plan.source.is_some_and(|source| source.contains("subagent"));
    summary.subagents +=
        u64::from(matches!(plan.kind, Kind::Spawn { .. }) || is_labelled && plan.era > Era::Bare);
    match plan.role {
        Some(ZeroByte) => summary.empty += 1,
        Some(Torn) => summary.torn += 1,
        Some(Glued | NulBytes | InvalidUtf8 | CutAndContinued) => summary.malformed += 1,
        Some(BrokenZst) if !all_plain => summary.broken_zst += 1,
        Some(NoHeader | ForeignHeader) => summary.wrong_header += 1,
        Some(Reverted) => summary.reverted += 1,
        Some(PlainAndZst) if all_plain => {}
        Some(PlainAndZst | DuplicateArchived | DuplicateStamp) => summary.duplicates += 1,
        _ => {}
    }
}

/// Makes the thread of this number, and counts what it made.
pub(super) fn write(disk: &mut Disk<'_>, layout: &Layout, number: u64, summary: &mut Summary) -> Result<()> {
    let (plan, parent) = layout.with_parent(number);
    count(summary, &plan, layout.all_plain);
    let rollout = content::rollout(layout, &plan, parent.as_ref());
    let mut prng = Prng::new(layout.seed, number, Purpose::Damage);
    let Rollout { text, last_ms, fork_point } = rollout;
    let bytes = damage::apply(text.into_bytes(), &plan, &mut prng);
    let folder = if plan.is_archived { ARCHIVE.to_owned() } else { day_folder(plan.start_ms) };
    let name = plan.file_name_at(plan.start_ms);
    let encoding = if layout.all_plain { Encoding::Plain } else { plan.encoding };
    let file = File { folder: &folder, name: &name, bytes: &bytes, last_ms, encoding };
    write_file(disk, summary, &file, plan.role == Some(Role::BrokenZst))?;
    match plan.role {
        Some(Role::PlainAndZst) if layout.all_plain => {}
        Some(Role::PlainAndZst) => {
            write_file(disk, summary, &File { encoding: Encoding::Zst, ..file }, false)?;
        }
        Some(Role::DuplicateArchived) => {
            write_file(disk, summary, &File { folder: ARCHIVE, ..file }, false)?;
        }
        Some(Role::DuplicateStamp) => {
            let start_ms = plan.start_ms + 90_000;
            let (folder, name) = (day_folder(start_ms), plan.file_name_at(start_ms));
            write_file(disk, summary, &File { folder: &folder, name: &name, ..file }, false)?;
        }
        Some(Role::Reverted) => {
            let start_ms = content::reverted_ms(last_ms);
            let rollout_id = thread_id(&mut prng, start_ms, true);
            let later = content::segment(layout, &plan, &fork_point, start_ms);
            let name = plan.file_name_at(start_ms).replace(".jsonl", &format!("_{rollout_id}.jsonl"));
            let folder = day_folder(start_ms);
            let (bytes, last_ms) = (later.text.as_bytes(), later.last_ms);
            let file = File { folder: &folder, name: &name, bytes, last_ms, encoding: Encoding::Plain };
            write_file(disk, summary, &file, false)?;
        }
        _ => {}
    }
    Ok(())
}
