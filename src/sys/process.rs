//! Who a process is, and what happens when it forks.
