//! What pages the kernel really put under an address range.
