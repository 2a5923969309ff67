//! Where does the file itself lie? Where it lies on disk: below `sessions/` or `archived_sessions/`.

use crate::store::placing::{FILES, Place, ViewCode};
use crate::store::row::{FileRow, Row};

use super::{View, file_place};

/// The regular files. A missing thread's file lies where its path says, in `health/missing`.
pub(super) struct Sessions;

impl View for Sessions {
    fn code(&self) -> ViewCode {
        FILES
    }

    fn root(&self) -> &'static str {
        "sessions"
    }

    fn about(&self) -> &'static str {
        "the threads, by the day they were begun; below archived_sessions the archived ones"
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        places.push(file_place(&row.file));
    }

    fn entry_name(&self, file: &FileRow) -> Vec<u8> {
        file.file_name().to_vec()
    }
}
