//! Mapping, populating, advising and unmapping memory.
