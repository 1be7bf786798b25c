//! A terminal on which one text takes the place of the one before.
//!
//! Nothing is switched on that would have to be switched off again: the cursor
//! stays where it is seen, lines are cut instead of wrapped, and whatever ends
//! the command leaves a terminal as it was.
#![expect(unsafe_code, reason = "the kernel is asked for the size of the window")]

use crate::output;
use crate::output::Failure;
use core::ops::ControlFlow;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;

nix::ioctl_read_bad!(read_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Columns and rows of a window; as many as you like where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    columns: usize,
    rows: usize,
}

impl Window {
    /// The window that standard output is shown in; `None` if it is no terminal.
    pub(crate) fn of_output() -> Option<Self> {
        let output = io::stdout();
        if !output.is_terminal() {
            return None;
        }
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one `winsize` to the address it is given, which is that of
        // an exclusive local of this type; the descriptor is open, and any other is an error.
        let known = unsafe { read_window_size(output.as_raw_fd(), &raw mut size) }.is_ok();
        let or_any = |n: u16| if known && n > 0 { usize::from(n) } else { usize::MAX };
        Some(Self { columns: or_any(size.ws_col), rows: or_any(size.ws_row) })
    }

    /// What shows `text` in this window, in the place of what was there.
    fn drawn(self, text: &str) -> String {
        const HOME: &str = "\x1b[H";
        const ERASE_LINE: &str = "\x1b[K\n";
        const ERASE_BELOW: &str = "\x1b[J";
        // The line below the last one is the cursor's.
        let room = self.rows.saturating_sub(1).max(1);
        let text = output::harmless(text);
        let count = text.lines().count();
        let shown = if count > room { room - 1 } else { count };
        let mut drawn = String::from(HOME);
        for line in text.lines().take(shown) {
            drawn.extend(line.chars().take(self.columns));
            drawn.push_str(ERASE_LINE);
        }
        if shown < count {
            let more = format!("... and {} lines more", count - shown);
            drawn.extend(more.chars().take(self.columns));
            drawn.push_str(ERASE_LINE);
        }
        drawn.push_str(ERASE_BELOW);
        drawn
    }
}

/// Where rounds are shown: in the place of the last one, or one behind the other.
#[derive(Debug)]
pub(crate) enum Screen {
    /// A terminal; whether anything was drawn there yet.
    Terminal { begun: bool },
    /// A file or a pipe; whether anything was written to it yet.
    Other { begun: bool },
}

impl Screen {
    /// The one that standard output is.
    pub(crate) fn new() -> Self {
        match Window::of_output() {
            Some(_) => Self::Terminal { begun: false },
            None => Self::Other { begun: false },
        }
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Shows the next text; `Break` if nobody looks any more.
    pub(crate) fn show(&mut self, text: &str) -> Result<ControlFlow<()>, Failure> {
        match self {
            Self::Terminal { begun } => {
                // The window may be another one at any time.
                let any = Window { columns: usize::MAX, rows: usize::MAX };
                let drawn = Window::of_output().unwrap_or(any).drawn(text);
                let clear = if *begun { "" } else { "\x1b[H\x1b[2J" };
                *begun = true;
                output::write(format!("{clear}{drawn}").as_bytes())
            }
            Self::Other { begun } => {
                let gap = if *begun { "\n" } else { "" };
                *begun = true;
                output::tell(&format!("{gap}{text}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_its_window_and_says_what_is_missing() {
        let window = Window { columns: 24, rows: 4 };
        assert_eq!(window.drawn("a\nb"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(
            window.drawn("a line of thirty characters...\n2\n3\n4"),
            "\x1b[Ha line of thirty charact\x1b[K\n2\x1b[K\n... and 2 lines more\x1b[K\n\x1b[J"
        );
        assert_eq!(window.drawn("1\n2\n3"), "\x1b[H1\x1b[K\n2\x1b[K\n3\x1b[K\n\x1b[J");
        assert_eq!(window.drawn("\x1b[2J"), "\x1b[H\\u{1b}[2J\x1b[K\n\x1b[J");
        for rows in 0..3 {
            let drawn = Window { columns: 3, rows }.drawn("1\n2\n3");
            assert!(drawn.starts_with("\x1b[H...\x1b[K\n") || rows == 2, "{drawn:?}");
        }
    }
}
