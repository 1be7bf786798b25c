//! Named segments: names, control file, header, publish, open, list, remove, collect.

pub(crate) mod stats;
