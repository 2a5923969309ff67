//! What do the parts cost that every request or every file goes through? Criterion, without a kernel: `cargo bench`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use rolloutfs::cli::sample_home::{SampleOptions, Size, generate};
use rolloutfs::fs::{Fs, FsOptions};
use rolloutfs::store::home::Home;
use rolloutfs::store::node::NodeNumber;
use rolloutfs::store::{Store, StoreOptions};
use rolloutfs::views::{Views, name};

/// Threads of the home that is listed and looked up in.
const THREADS: u64 = 2000;
/// Entries of an answer to the kernel, about.
const PAGE_ENTRIES: usize = 140;

fn sample(dir: &Path, threads: u64, size: Size) -> u64 {
    let options = SampleOptions { threads, seed: 1, size, all_plain: true, jobs: 0 };
    generate(dir, &options, &|_| ()).expect("a sample home").decoded_bytes
}

fn open(home: &Path) -> Fs {
    let home = Home::open(home).expect("a home");
    let store = Store::open(home, &StoreOptions::default(), Arc::new(Views::new())).expect("a store");
    let fs = Fs::new(store, FsOptions::default()).expect("a tree");
    fs.store().flush();
    fs
}

fn node(fs: &Fs, path: &str) -> NodeNumber {
    path.split('/').fold(NodeNumber::ROOT, |at, name| {
        fs.lookup(at, name.as_bytes()).expect("a lookup").expect("an entry").attr.number
    })
}

/// Names of a folder, a page or all.
fn list(fs: &Fs, dir: NodeNumber, plus: bool, limit: usize) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    fs.readdir(dir, 2, plus, &mut |entry| {
        names.push(entry.name);
        names.len() < limit
    })
    .expect("a listing");
    names
}

fn backfill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("backfill");
    group.sample_size(10);
    for (label, threads, size) in [("tiny", 500, Size::Tiny), ("realistic", 50, Size::Realistic)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = dir.path().join("home");
        group.throughput(Throughput::Bytes(sample(&home, threads, size)));
        group.bench_function(label, |bencher| {
            bencher.iter_batched(
                || drop(std::fs::remove_dir_all(home.join(".rolloutfs"))),
                |()| open(&home),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name");
    for (label, text) in [
        ("plain", "fix the login form"),
        ("encoded", "fix: auth/login (v2) \u{4fee}\u{590d} 100%"),
        ("long", &"a rather long name ".repeat(40)),
    ] {
        group.bench_function(label, |bencher| {
            bencher.iter(|| name::fold_key(&name::encode_name(black_box(text), "0a1b2c3d")));
        });
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home = dir.path().join("home");
    sample(&home, THREADS, Size::Tiny);
    let fs = open(&home);
    let archived = node(&fs, "archived_sessions");
    let by_id = node(&fs, "by-id");
    let mut group = criterion.benchmark_group("lookup");
    for (label, dir) in [("file", archived), ("link", by_id)] {
        let names = list(&fs, dir, false, usize::MAX);
        let mut next = 0;
        group.bench_function(label, |bencher| {
            bencher.iter(|| {
                next = (next + 97) % names.len();
                fs.lookup(dir, black_box(&names[next])).expect("a lookup").expect("an entry")
            });
        });
    }
    let links: Vec<_> = list(&fs, by_id, false, usize::MAX)
        .iter()
        .map(|name| fs.lookup(by_id, name).expect("a lookup").expect("an entry").attr.number)
        .collect();
    let mut next = 0;
    group.bench_function("readlink", |bencher| {
        bencher.iter(|| {
            next = (next + 97) % links.len();
            fs.readlink(links[next]).expect("a link's text")
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("readdir page");
    group.throughput(Throughput::Elements(PAGE_ENTRIES as u64));
    for (label, dir, plus) in
        [("files", archived, true), ("links", by_id, true), ("links without attributes", by_id, false)]
    {
        group.bench_function(label, |bencher| bencher.iter(|| list(&fs, dir, plus, PAGE_ENTRIES)));
    }
    group.finish();
}

criterion_group!(benches, backfill, names, requests);
criterion_main!(benches);
