//! Does the index follow a home? Made homes, no kernel.

mod common;

use common::{TestHome, walk};

/// Promise 2: the index is a cache.
#[test]
fn the_tree_is_the_same_after_the_index_was_deleted() {
    let home = TestHome::sample(300, 7);
    let first = walk(&home.tree());
    assert!(first.len() > 2000, "{}", first.len());
    let again = walk(&home.tree());
    assert_same(&first, &again, "a warm index");
    home.forget_state();
    let rebuilt = walk(&home.tree());
    assert_same(&first, &rebuilt, "a rebuilt index");
}

fn assert_same(first: &[String], second: &[String], what: &str) {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let known: std::collections::HashSet<_> = b.iter().collect();
        a.iter().filter(|line| !known.contains(line)).take(10).cloned().collect()
    };
    assert_eq!((only(first, second), only(second, first)), (Vec::new(), Vec::new()), "{what}");
}
