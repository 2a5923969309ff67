//! Does the index follow a home? Made homes, no kernel.

mod bad_input;
mod common;
mod model;

use common::{TestHome, difference, walk};
use model::{Model, Truth};
use rolloutfs::fs::ViewsAs;

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

/// The bookkeeping of directories and days, counted again from the rows.
#[test]
fn a_sample_homes_directories_count_what_is_in_them() {
    let home = TestHome::sample(200, 11);
    let fs = home.tree();
    Truth::of(fs.store()).assert_kept("a sample home");
}

fn assert_same(first: &[String], second: &[String], what: &str) {
    assert_eq!(difference(first, second), (Vec::new(), Vec::new()), "{what}");
}

/// Bursts of random outside changes; at rest the tree is that of an index made anew.
fn follow_random_changes(seed: u64, bursts: usize, views_as: ViewsAs) {
    println!("seed {seed}");
    let mut model = Model::new(seed, views_as);
    for burst in 0..bursts {
        let done = model.burst();
        model.assert_followed(&format!("seed {seed}, burst {burst}: {done:#?}"));
    }
}

/// One test a seed: they run side by side.
macro_rules! seeds {
    ($($name:ident: $seed:expr, $views_as:ident;)*) => {
        $(#[test]
        fn $name() {
            follow_random_changes($seed, BURSTS, ViewsAs::$views_as);
        })*
    };
}

/// Bursts of one seed.
const BURSTS: usize = 25;

seeds! {
    outside_changes_are_followed_1: 1, Symlinks;
    outside_changes_are_followed_2: 2, Symlinks;
    outside_changes_are_followed_3: 3, Files;
    outside_changes_are_followed_4: 4, Symlinks;
    outside_changes_are_followed_5: 5, Files;
    outside_changes_are_followed_6: 6, Symlinks;
}

/// `ROLLOUTFS_TEST_SEEDS=100-150` tries more seeds.
#[test]
fn outside_changes_are_followed_for_the_seeds_asked_for() {
    let Ok(range) = std::env::var("ROLLOUTFS_TEST_SEEDS") else { return };
    let (first, last) = range.split_once('-').expect("FIRST-LAST");
    for seed in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
        follow_random_changes(seed, BURSTS, if seed % 3 == 0 { ViewsAs::Files } else { ViewsAs::Symlinks });
    }
}
