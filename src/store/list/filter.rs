//! Which rollouts does a query want? Spec 8.3 and 8.7.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::ListQuery;
use crate::store::row::Row;

/// Canonical forms that are remembered; a home has few working directories and many threads.
const CANONICAL_MAX: usize = 10_000;

/// The filters of a query that are asked of each row.
pub(super) struct Filter<'q> {
    query: &'q ListQuery,
    providers: Vec<&'q str>,
    cwds: Vec<(&'q Path, Option<PathBuf>)>,
    canonical: RefCell<HashMap<String, Option<PathBuf>>>,
}

impl<'q> Filter<'q> {
    pub(super) fn new(query: &'q ListQuery) -> Self {
        let mut providers: Vec<_> = query.providers.iter().map(String::as_str).collect();
        if providers.contains(&query.default_provider.as_str()) {
            providers.push("");
        }
        let cwds = query.cwds.iter().map(|cwd| (cwd.as_path(), std::fs::canonicalize(cwd).ok())).collect();
        Filter { query, providers, cwds, canonical: RefCell::new(HashMap::new()) }
    }

    /// Providers to list as the files name them, with the empty one where it counts; none for all.
    pub(super) fn providers(&self) -> &[&'q str] {
        &self.providers
    }

    pub(super) fn accepts(&self, row: &Row) -> bool {
        let meta = &row.meta;
        let source = self.query.sources.is_empty()
            || self.query.sources.iter().any(|wanted| source_is(&meta.source, wanted));
        let provider = self.providers.is_empty() || self.providers.contains(&meta.model_provider.as_str());
        source && provider && self.has_text(row) && self.has_cwd(row)
    }

    fn has_text(&self, row: &Row) -> bool {
        let Some(text) = &self.query.text else { return true };
        let name = row.file.name.as_deref().unwrap_or("");
        [name, &row.meta.title, &row.meta.preview].iter().any(|place| place.contains(text.as_str()))
    }

    fn has_cwd(&self, row: &Row) -> bool {
        let own = [Some(row.meta.cwd.as_str()), row.meta.last_cwd.as_deref()];
        self.cwds.is_empty() || own.into_iter().flatten().any(|cwd| self.is_wanted_cwd(cwd))
    }

    fn is_wanted_cwd(&self, cwd: &str) -> bool {
        if cwd.is_empty() {
            return false;
        }
        let mut known = self.canonical.borrow_mut();
        if known.len() >= CANONICAL_MAX {
            known.clear();
        }
        let canonical = known.entry(cwd.to_owned()).or_insert_with(|| {
            // A relative path of another process says nothing here.
            Path::new(cwd).is_absolute().then(|| std::fs::canonicalize(cwd).ok()).flatten()
        });
        self.cwds.iter().any(|(raw, wanted)| match (canonical.as_ref(), wanted) {
            (Some(one), Some(other)) => one == other,
            _ => Path::new(cwd) == *raw,
        })
    }
}

/// True if `source` is what `wanted` says: the same text, or an object with that outer word.
pub(super) fn source_is(source: &str, wanted: &str) -> bool {
    source == wanted || (!wanted.is_empty() && source.starts_with(&object_start(wanted)))
}

/// How the text of an object begins that has this outer word.
pub(super) fn object_start(word: &str) -> String {
    format!("{{\"{word}\":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_compare_exactly_or_by_their_outer_word() {
        let review = "{\"subagent\":\"review\"}";
        for (source, wanted, is) in [
            ("cli", "cli", true),
            ("cli", "CLI", false),
            ("cli", "cl", false),
            (review, review, true),
            (review, "subagent", true),
            (review, "sub", false),
            (review, "", false),
            ("", "", true),
        ] {
            assert_eq!(source_is(source, wanted), is, "{source} {wanted}");
        }
    }
}
