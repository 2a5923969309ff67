//! By which properties are threads grouped? One description a facet: its folder, and a row's places in it.

use crate::store::placing::{Place, ViewCode};
use crate::store::row::Row;

use super::{View, is_known, place, place_below, shown_name};

/// A view that groups threads by a property: directories for its values, links to the rollouts in them.
pub(super) struct Facet {
    code: u8,
    root: &'static str,
    about: &'static str,
    /// The directories of a row below the root, as encoded components.
    dirs: fn(&Row) -> Vec<Vec<String>>,
}

/// The provider of a thread that names none (spec 5.2: the caller's default).
pub const PROVIDER_DEFAULT: &str = "openai";

/// The facets.
pub(super) static FACETS: [Facet; 7] = [
    Facet {
        code: 1,
        root: "archived",
        about: "archived threads, by the day they were begun",
        dirs: |row| match row.file.rollout_name() {
            Some(name) if row.file.archived => {
                let (year, month, day) = name.date_parts();
                vec![vec![year.to_owned(), month.to_owned(), day.to_owned()]]
            }
            _ => Vec::new(),
        },
    },
    Facet {
        code: 3,
        root: "by-cwd",
        about: "threads by working directory: ls MNT/by-cwd$PWD",
        dirs: |row| {
            let first = place::cwd_components(&row.meta.cwd);
            let last = row.meta.last_cwd.as_deref().and_then(place::cwd_components);
            let mut dirs: Vec<_> = first.into_iter().collect();
            dirs.extend(last.filter(|last| Some(last) != dirs.first()));
            dirs
        },
    },
    Facet {
        code: 5,
        root: "by-repo",
        about: "threads by git repository: host, owner, repository",
        dirs: |row| row.meta.git_origin_url.as_deref().and_then(place::repo_components).into_iter().collect(),
    },
    Facet {
        code: 6,
        root: "by-branch",
        about: "threads by git branch",
        dirs: |row| row.meta.git_branch.as_deref().and_then(place::branch_components).into_iter().collect(),
    },
    Facet {
        code: 7,
        root: "by-source",
        about: "threads by what started them: cli, vscode, exec, subagent, ...",
        dirs: |row| vec![place::source_components(&row.meta.source)],
    },
    Facet {
        code: 8,
        root: "by-model",
        about: "threads by model",
        dirs: |row| row.meta.model.as_deref().and_then(place::single_component).into_iter().collect(),
    },
    Facet {
        code: 9,
        root: "by-provider",
        about: "threads by model provider",
        dirs: |row| {
            let provider =
                if row.meta.model_provider.is_empty() { PROVIDER_DEFAULT } else { &row.meta.model_provider };
            place::single_component(provider).into_iter().collect()
        },
    },
];

impl View for &'static Facet {
    fn code(&self) -> ViewCode {
        ViewCode(self.code)
    }

    fn root(&self) -> &'static str {
        self.root
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        // The date of an archived thread is in its name: nothing need be read for it.
        if !is_known(row) && self.code != 1 {
            return;
        }
        for (index, components) in (self.dirs)(row).iter().enumerate() {
            places.push(place_below(self, index as u8, components, shown_name(&row.file)));
        }
    }
}
