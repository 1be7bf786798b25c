//! Spin, yield, sleep on a shared futex; deadlines and cancellation.
