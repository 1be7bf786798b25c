//! Named segments: names, control file, header, publish, open, list, remove, collect.

pub(crate) mod control;
pub(crate) mod directory;
pub(crate) mod domain;
pub(crate) mod folder;
pub(crate) mod layout;
pub(crate) mod names;
pub(crate) mod stats;
