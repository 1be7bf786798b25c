//! Who a process is, and whether it lives.
