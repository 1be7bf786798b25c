//! Users, processes and times as people read them.

use hugeshm::{AttachmentInfo, EndpointInfo, ObjectInfo, PeerState, Role};
use nix::unistd::{Uid, User};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many processes a cell names.
const SHOWN: usize = 6;

/// Names of users, each looked up once.
#[derive(Debug, Default)]
pub(crate) struct Users(HashMap<u32, Option<String>>);

impl Users {
    /// The user's name; none for a number that nobody has.
    pub(crate) fn name(&mut self, uid: u32) -> Option<String> {
        let look_up = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        // The highest number stands for "not known", in reports and in the kernel.
        if uid == u32::MAX { None } else { self.0.entry(uid).or_insert_with(look_up).clone() }
    }

    /// The user's name, else the number.
    pub(crate) fn text(&mut self, uid: u32) -> String {
        match self.name(uid) {
            Some(name) => name,
            None if uid == u32::MAX => String::new(),
            None => uid.to_string(),
        }
    }
}

/// What is said behind a process that is not simply alive.
pub(crate) const fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Never => "never taken",
        PeerState::Alive => "alive",
        PeerState::Closed => "closed",
        PeerState::Dead => "dead",
        _ => "unknown",
    }
}

/// The processes attached: living ones first, dead ones named as such, and those that left not.
pub(crate) fn attached(attachments: &[AttachmentInfo]) -> String {
    let mut there: Vec<_> =
        attachments.iter().filter(|slot| slot.state != PeerState::Closed).collect();
    there.sort_by_key(|slot| slot.state != PeerState::Alive);
    let mut text: Vec<_> = there
        .iter()
        .take(SHOWN)
        .map(|slot| match slot.state {
            PeerState::Alive => slot.pid.to_string(),
            other => format!("{} {}", slot.pid, state(other)),
        })
        .collect();
    if there.len() > SHOWN {
        text.push(format!("{} more", there.len() - SHOWN));
    }
    text.join(", ")
}

/// Who holds the endpoints of a role: `4711 feed`, `4711 feed dead`; empty if nobody ever did.
///
/// Where there may be several, those that left are not named, the living come first, and each
/// says what it lags and what it missed.
pub(crate) fn holders(object: &ObjectInfo, role: Role) -> String {
    let places = || object.endpoints.iter().filter(|endpoint| endpoint.role == role);
    let many = places().count() > 1;
    let gone = |endpoint: &&EndpointInfo| match endpoint.state {
        PeerState::Never => true,
        PeerState::Closed => many,
        _ => false,
    };
    let mut there: Vec<_> = places().filter(|endpoint| !gone(endpoint)).collect();
    there.sort_by_key(|endpoint| endpoint.state != PeerState::Alive);
    let mut text: Vec<_> = there.iter().take(SHOWN).map(|one| holder(one, many)).collect();
    if there.len() > SHOWN {
        text.push(format!("{} more", there.len() - SHOWN));
    }
    text.join(", ")
}

fn holder(endpoint: &EndpointInfo, one_of_many: bool) -> String {
    let mut who = format!("{} {}", endpoint.pid, endpoint.label).trim_end().to_owned();
    if endpoint.state != PeerState::Alive {
        who = format!("{who} {}", state(endpoint.state));
    }
    if let Some(lag) = endpoint.lag.filter(|&lag| one_of_many && lag > 0) {
        who = format!("{who} lag {lag}");
    }
    if one_of_many && endpoint.stats.gaps > 0 {
        who = format!("{who} gaps {}", endpoint.stats.gaps);
    }
    who
}

/// What an object lags: as a whole, or else the most that one of its endpoints does.
pub(crate) fn lag(object: &ObjectInfo) -> String {
    let counts = |state| !matches!(state, PeerState::Never | PeerState::Closed);
    let each = object.endpoints.iter().filter(|end| counts(end.state));
    match (object.lag, each.filter_map(|end| end.lag).max()) {
        (Some(lag), _) => lag.to_string(),
        (None, Some(lag)) => format!("max {lag}"),
        (None, None) => String::new(),
    }
}

/// Whether a report may leave an endpoint out: nobody ever took it, and it is one of many.
pub(crate) fn is_spare(object: &ObjectInfo, endpoint: &EndpointInfo) -> bool {
    let same = object.endpoints.iter().filter(|other| other.role == endpoint.role);
    endpoint.state == PeerState::Never && same.take(2).count() > 1
}

/// How many endpoints [`is_spare`] leaves out: `never taken: 2 producers, 249 consumers`.
pub(crate) fn spares(object: &ObjectInfo) -> Option<String> {
    let of = |role: Role| {
        let spare = |end: &&EndpointInfo| end.role == role && is_spare(object, end);
        match object.endpoints.iter().filter(spare).count() {
            0 => None,
            number => Some(count(number, &role.to_string())),
        }
    };
    let text: Vec<_> = [Role::Producer, Role::Consumer].into_iter().filter_map(of).collect();
    if text.is_empty() { None } else { Some(format!("never taken: {}", text.join(", "))) }
}

/// Which place of an object an endpoint is: `producer 0`.
pub(crate) fn end(endpoint: &EndpointInfo) -> String {
    format!("{} {}", endpoint.role, endpoint.slot)
}

/// A number of things: `1 segment`, `2 segments`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A number of messages in a second: `950`, `12.3k`, `4.56M`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e9 => format!("{:.2}G", r / 1e9),
        r if r >= 1e6 => format!("{:.2}M", r / 1e6),
        r if r >= 1e4 => format!("{:.1}k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

/// A moment in nanoseconds since 1970, and how long ago it was.
pub(crate) fn moment(nanos: u64) -> String {
    if nanos == 0 {
        return "unknown".to_owned();
    }
    let seconds = nanos / 1_000_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now.checked_sub(seconds) {
        Some(ago) => format!("{} ({} ago)", date(seconds), span(ago)),
        None => format!("{} (in the future)", date(seconds)),
    }
}

/// A number of seconds in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} min", s / 60),
        s if s < 2 * 86400 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

/// Seconds since 1970 as date and time, UTC.
fn date(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86400, seconds % 86400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // A cycle of the calendar is 400 years or 146,097 days.
    let mut year = 1970 + day / 146_097 * 400;
    day %= 146_097;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{:02} UTC", day + 1, second % 60)
}

/// Whether a command that shows all segments looks into those of this user.
///
/// Looking means mapping, and whoever owns the file can cut it short at that moment, which is a
/// SIGBUS: one stranger would keep everybody from seeing anything. Who names a segment takes that on
/// himself.
pub fn is_looked_into(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59:59 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert!(date(u64::MAX / 1_000_000_000).starts_with("2554-"));
    }

    #[test]
    fn rates_and_spans_are_short() {
        assert_eq!(
            [0.4, 9999.0, 12_345.0, 4.5e6, 2e9].map(rate),
            ["0", "9999", "12.3k", "4.50M", "2.00G"]
        );
        assert_eq!([5, 600, 7200, 864_000].map(span), ["5 s", "10 min", "2 h", "10 days"]);
    }

    #[test]
    fn an_unknown_user_is_a_number_and_no_user_nothing() {
        let mut users = Users::default();
        assert_eq!(users.text(u32::MAX), "");
        assert_eq!(users.text(u32::MAX - 7), (u32::MAX - 7).to_string());
    }
}
