//! The memory door: a bounded window onto bytes that others may change.
