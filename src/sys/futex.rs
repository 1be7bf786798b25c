//! Sleeping on and waking through a word of shared memory.
