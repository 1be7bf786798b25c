//! Who a process is, and whether it lives.

/// What is known of the process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PeerState {
    /// Nobody has ever taken the other end.
    Never,
    /// It is held by a living process (which may be slow or stopped).
    Alive,
    /// Its last holder gave it back in good order.
    Closed,
    /// Its last holder died without giving it back.
    Dead,
    /// The kernel could not be asked.
    Unknown,
}
