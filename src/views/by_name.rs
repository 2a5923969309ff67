//! Under which name is a thread found? `by-name/<name>.jsonl`, for every thread that was given a name.
//!
//! Several threads may have one name. The one that was named last shows it bare, the others with `~` and the last
//! eight digits of their id; the store decides who comes first, this file how it is spelled.

use crate::store::placing::{Place, ViewCode};
use crate::store::row::{FileRow, Row};

use super::{View, name, place_below};

/// Named threads.
pub(super) struct ByName;

/// The component of the first thread of a name.
pub(super) fn first(name: &str, suffix: &str) -> String {
    name::encode_name(name, suffix)
}

/// The component of another thread of that name.
pub(super) fn second(name: &str, suffix: &str) -> String {
    name::with_suffix(&name::encode_name(name, suffix), suffix)
}

impl View for ByName {
    fn code(&self) -> ViewCode {
        ViewCode(2)
    }

    fn root(&self) -> &'static str {
        "by-name"
    }

    fn about(&self) -> &'static str {
        "named threads; of several with one name the last named has it bare, the others end in ~ and 8 digits of their id"
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        if row.file.current && row.file.listed_name.is_some() {
            places.push(place_below(self, 0, &[], self.entry_name(&row.file)));
        }
    }

    fn entry_name(&self, file: &FileRow) -> Vec<u8> {
        match &file.listed_name {
            Some(listed) => format!("{listed}{}", name::THREAD_EXTENSION).into_bytes(),
            None => Vec::new(),
        }
    }
}
