//! Rings: typed and record.
