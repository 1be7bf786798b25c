//! Backing, mapping, population and proof.
