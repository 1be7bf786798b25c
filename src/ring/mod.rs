//! Rings: typed and record.
pub(crate) mod error;
pub(crate) mod layout;
pub(crate) mod position;
