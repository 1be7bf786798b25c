//! Rings: typed and record.
mod endpoint;
pub(crate) mod error;
pub(crate) mod layout;
pub(crate) mod position;
mod slots;
#[cfg(test)]
mod testing;
mod typed;
#[cfg(test)]
mod typed_tests;
