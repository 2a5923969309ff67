//! Which threads came from this one? `by-parent/<thread id>/`: its sub-agents and forks.

use crate::store::placing::{Place, ViewCode};
use crate::store::row::Row;

use super::{View, is_known, place_below, shown_name};

/// Sub-agents and forks, below the thread they came from.
pub(super) struct ByParent;

impl View for ByParent {
    fn code(&self) -> ViewCode {
        ViewCode(10)
    }

    fn root(&self) -> &'static str {
        "by-parent"
    }

    fn about(&self) -> &'static str {
        "sub-agents and forks, below the id of the thread they came from"
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        if !is_known(row) {
            return;
        }
        let spawned_by = row.meta.parent_thread_id;
        let forked_from = row.meta.forked_from_id.filter(|id| Some(*id) != spawned_by);
        for (index, parent) in [spawned_by, forked_from].into_iter().enumerate() {
            if let Some(parent) = parent.filter(|id| Some(*id) != row.file.thread_id) {
                places.push(place_below(self, index as u8, &[parent.to_string()], shown_name(&row.file)));
            }
        }
    }
}
