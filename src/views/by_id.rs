//! Where is the thread with this id? `by-id/<thread id>.jsonl`, its current file.

use crate::store::placing::{Place, ViewCode};
use crate::store::row::{FileRow, Row, RowKind};

use super::{View, name, place_below};

/// Every thread.
pub(super) struct ById;

impl View for ById {
    fn code(&self) -> ViewCode {
        ViewCode(4)
    }

    fn root(&self) -> &'static str {
        "by-id"
    }

    fn about(&self) -> &'static str {
        "every thread by its id"
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        if row.file.kind == RowKind::Rollout && row.file.current {
            places.push(place_below(self, 0, &[], self.entry_name(&row.file)));
        }
    }

    fn entry_name(&self, file: &FileRow) -> Vec<u8> {
        match file.thread_id {
            Some(id) => format!("{id}{}", name::THREAD_EXTENSION).into_bytes(),
            None => Vec::new(),
        }
    }
}
