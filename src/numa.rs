//! Nodes and placement policies.
