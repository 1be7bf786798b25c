//! The one fallback decision, with its reasons.
