//! Which items of the trash hold history that others go on from?
//!
//! The header of a reference fork, or of a later segment, names the rollout that holds the history before it (spec 2.3,
//! `history_base`, and 9.3): without that file it cannot be read. Depends on `archive`, `list` and `content`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::TrashItem;
use crate::store::archive::visit_rollouts;
use crate::store::error::Result;
use crate::store::home::Home;
use crate::store::list::read_header;
use crate::store::rollout::{RolloutName, ThreadId};
use crate::store::tree::split_path;

/// Moves out of `doomed` what is needed by a rollout of the home, by an item of `staying`, or by one that is needed
/// itself. Answers it, each with who needs it.
pub(super) fn take_needed(
    home: &Home,
    doomed: &mut Vec<TrashItem>,
    staying: Vec<TrashItem>,
) -> Result<Vec<(TrashItem, String)>> {
    if doomed.is_empty() {
        return Ok(Vec::new());
    }
    // Rollouts of the home, and who names which rollout as its base.
    let (mut there, mut bases) = (HashSet::new(), HashMap::new());
    visit_rollouts(home, &mut |path, name| {
        there.insert(name.key_id());
        if let Some(base) = base_of(&home.join(&path), &name) {
            bases.insert(base, String::from_utf8_lossy(&path).into_owned());
        }
    })?;
    staying.iter().for_each(|item| bases.extend(bases_of(item)));
    let mut needed = Vec::new();
    loop {
        let who = |item: &TrashItem| {
            rollouts_of(item)
                .find(|(_, name)| !there.contains(&name.key_id()) && bases.contains_key(&name.key_id()))
        };
        let Some((at, id)) =
            doomed.iter().enumerate().find_map(|(at, item)| Some((at, who(item)?.1.key_id())))
        else {
            return Ok(needed);
        };
        let item = doomed.remove(at);
        let by = bases[&id].clone();
        bases.extend(bases_of(&item));
        needed.push((item, by));
    }
}

fn bases_of(item: &TrashItem) -> Vec<(ThreadId, String)> {
    let found = rollouts_of(item)
        .filter_map(|(stored, name)| Some((base_of(&item.folder.join(stored), &name)?, item.id.clone())));
    found.collect()
}

/// The rollouts of an item, by the plain names under which they are stored.
fn rollouts_of(item: &TrashItem) -> impl Iterator<Item = (String, RolloutName)> + '_ {
    item.info.files.iter().filter_map(|file| {
        let name = RolloutName::parse(split_path(file.path.as_bytes()).1)?;
        let plain = file.stored.strip_suffix(".zst").unwrap_or(&file.stored);
        Some((plain.to_owned(), name))
    })
}

/// The rollout that a file goes on from. One that cannot be read says nothing.
fn base_of(logical: &Path, name: &RolloutName) -> Option<ThreadId> {
    read_header(logical, Some(name))?.metadata.history_base_id
}
