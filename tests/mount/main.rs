//! Does a mounted home do what is promised, to programs that know nothing of it? The real program on the real kernel.
//!
//! Every test makes its own home and mounts it; where no mount can be made it says so and passes.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mount.rs"]
mod harness;
mod reference;

mod contents;
mod identity;
mod lifecycle;
mod live;
mod odd;
mod requests;
mod shown;
