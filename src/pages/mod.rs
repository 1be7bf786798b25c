//! What this machine has: huge page pools, mounts, limits, container.
