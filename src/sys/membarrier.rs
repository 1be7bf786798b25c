//! A fence that only the sleeper pays for.
