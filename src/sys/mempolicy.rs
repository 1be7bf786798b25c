//! Where pages may lie, and where they do lie.
