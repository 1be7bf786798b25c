//! Anonymous files, huge or not, and their seals.
