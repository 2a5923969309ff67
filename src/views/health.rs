//! What is odd about a file? `health/<what>/`: nothing is hidden, so what is damaged is listed.

use crate::store::areas::Area;
use crate::store::placing::{Place, ViewCode};
use crate::store::row::{FileRow, ReadState, Row, RowKind};

use super::{View, name, place_below, shown_name};

/// Odd files. Named threads without a rollout lie beside them, in `health/missing`, as small files.
pub(super) struct Health;

/// The folders, in the order of their place index.
const KINDS: [&str; 5] = ["unreadable", "torn", "bare", "duplicate-id", "stray"];

/// What is odd about a row, in the order of [`KINDS`].
fn oddities(row: &Row) -> [bool; 5] {
    let file = &row.file;
    let rollout = file.kind == RowKind::Rollout;
    let empty = file.state == ReadState::Read && row.lines == 0;
    [
        rollout && (file.state == ReadState::Failed || empty),
        rollout && (file.torn || file.parse_errors > 0),
        rollout && file.bare,
        rollout && file.duplicate,
        file.kind == RowKind::Stray && file.area == Area::Home,
    ]
}

/// What is odd about a row, by the folders' names.
pub fn kinds(row: &Row) -> Vec<&'static str> {
    KINDS.into_iter().zip(oddities(row)).filter(|(_, odd)| *odd).map(|(kind, _)| kind).collect()
}

impl View for Health {
    fn code(&self) -> ViewCode {
        ViewCode(11)
    }

    fn root(&self) -> &'static str {
        "health"
    }

    fn about(&self) -> &'static str {
        "what is odd: files that are unreadable or empty, torn (cut or malformed lines), bare (before September 2025), \
         share an id, are no rollouts; and named threads whose rollout is missing"
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        for (index, (kind, odd)) in KINDS.into_iter().zip(oddities(row)).enumerate() {
            if odd {
                places.push(place_below(self, index as u8, &[kind.to_owned()], self.entry_name(&row.file)));
            }
        }
    }

    fn entry_name(&self, file: &FileRow) -> Vec<u8> {
        match file.kind {
            // Strays of several folders may have one name: their whole path is the name.
            RowKind::Stray => name::encode_component_bytes(&file.path).into_bytes(),
            RowKind::Rollout | RowKind::Missing => shown_name(file),
        }
    }
}
