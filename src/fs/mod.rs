//! What does each filesystem call answer? `Fs` in our own types, without a kernel.

pub mod session;
