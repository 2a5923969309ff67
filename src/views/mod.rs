//! Which names does the tree have? The table of views, and where a file appears in each.
//!
//! A view answers one question, as a pure function of a row: at which places is this file? It does no I/O, reads no
//! clock and knows no other view. What is in a directory follows from all rows' places, which the store keeps.
//! A new facet is a line in `facet::FACETS`.

use crate::store::placing::{FILES, Place, Placing, ViewCode};
use crate::store::row::{FileRow, Row, RowKind};

pub mod by_id;
pub mod by_name;
pub mod by_parent;
pub mod facet;
pub mod health;
pub mod name;
pub mod place;
pub mod readme;
pub mod sessions;
pub mod threads;

/// One view of the tree.
pub trait View: Send + Sync {
    /// Its code: part of node numbers, never used again for another view.
    fn code(&self) -> ViewCode;
    /// Its directory at the root.
    fn root(&self) -> &'static str;
    /// One line for `README.md`.
    fn about(&self) -> &'static str;
    /// Every place of the row in this view.
    fn places(&self, row: &Row, places: &mut Vec<Place>);
    /// The name of its entries for this file.
    fn entry_name(&self, file: &FileRow) -> Vec<u8> {
        shown_name(file)
    }
}

/// The code of the link `latest`, which is a view of one entry at the root.
pub const LATEST: ViewCode = ViewCode(12);

/// Raised whenever a view places a row elsewhere than before, or its line changes.
const VIEWS_VERSION: u32 = 1;

/// All views.
pub struct Views {
    views: Vec<Box<dyn View>>,
}

impl Default for Views {
    fn default() -> Self {
        Views::new()
    }
}

impl Views {
    /// The views of the design, in the order in which `README.md` explains them.
    pub fn new() -> Views {
        let mut views: Vec<Box<dyn View>> = vec![
            Box::new(sessions::Sessions),
            Box::new(by_name::ByName),
            Box::new(by_id::ById),
            Box::new(by_parent::ByParent),
            Box::new(health::Health),
        ];
        views.extend(facet::FACETS.iter().map(|facet| Box::new(facet) as Box<dyn View>));
        Views { views }
    }

    /// The views.
    pub fn iter(&self) -> impl Iterator<Item = &dyn View> {
        self.views.iter().map(|view| &**view)
    }

    /// The view of this code.
    pub fn by_code(&self, code: ViewCode) -> Option<&dyn View> {
        self.iter().find(|view| view.code() == code)
    }

    /// The place `index` of a row in a view.
    pub fn place(&self, code: ViewCode, index: u8, row: &Row) -> Option<Place> {
        let mut places = Vec::new();
        self.by_code(code)?.places(row, &mut places);
        places.into_iter().find(|place| place.view == code && place.index == index)
    }
}

impl Placing for Views {
    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        for view in self.iter() {
            view.places(row, places);
        }
    }

    fn entry_name(&self, view: ViewCode, file: &FileRow) -> Vec<u8> {
        match self.by_code(view) {
            Some(view) => view.entry_name(file),
            None => file.file_name().to_vec(),
        }
    }

    fn second_name(&self, name: &str, suffix: &str) -> String {
        by_name::second(name, suffix)
    }

    fn first_name(&self, name: &str, suffix: &str) -> String {
        by_name::first(name, suffix)
    }

    fn name_key(&self, first_name: &str) -> String {
        name::fold_key(first_name)
    }

    fn line(&self, row: &Row) -> Option<Vec<u8>> {
        threads::line(row)
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        let roots = self.iter().map(|view| view.root().as_bytes().to_vec());
        [b"".to_vec(), b"archived_sessions".to_vec()].into_iter().chain(roots).collect()
    }

    fn version(&self) -> u32 {
        VIEWS_VERSION
    }
}

/// The name of a rollout in a view: its own, or for a second file of the same id one that cannot meet the first's.
pub fn shown_name(file: &FileRow) -> Vec<u8> {
    let own = file.file_name();
    if !file.secondary {
        return own.to_vec();
    }
    let stem = own.strip_suffix(name::THREAD_EXTENSION.as_bytes()).unwrap_or(own);
    let mark = xxhash_rust::xxh3::xxh3_64(&file.path) as u32;
    [stem, format!("~{mark:08x}{}", name::THREAD_EXTENSION).as_bytes()].concat()
}

/// True for a rollout of which something was read: before, a view knows nothing of it.
fn is_known(row: &Row) -> bool {
    row.file.kind == RowKind::Rollout && row.lines > 0
}

/// A place of a rollout below a view's root, under encoded components.
fn place_below(view: &dyn View, index: u8, components: &[String], name: Vec<u8>) -> Place {
    let mut dir = view.root().as_bytes().to_vec();
    for component in components {
        dir.push(b'/');
        dir.extend_from_slice(component.as_bytes());
    }
    Place { view: view.code(), index, dir, name }
}

/// The text of a link at a place that leads to a file: relative, so that it holds wherever the tree is mounted.
pub fn link_target(dir: &[u8], file_path: &[u8]) -> Vec<u8> {
    let depth = if dir.is_empty() { 0 } else { 1 + dir.iter().filter(|&&byte| byte == b'/').count() };
    [b"../".repeat(depth), file_path.to_vec()].concat()
}

/// The place of the file itself.
fn file_place(file: &FileRow) -> Place {
    Place { view: FILES, index: 0, dir: file.dir_path().to_vec(), name: file.file_name().to_vec() }
}
