//! A plot of each table: one bar per row, with a whisker from the least to the most.

use crate::report::Report;
use crate::sum::{Row, Sheet};
use core::fmt::Write as _;
use std::path::Path;

const WIDTH: f64 = 860.0;
const NAMES: f64 = 300.0;
const ROW: f64 = 24.0;
const TOP: f64 = 48.0;

/// Writes `KEY.svg` and, where there are far turns, `KEY-far.svg` for each table.
pub(crate) fn write(report: &Report, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for sheet in &report.sheets {
        for (rows, suffix) in [(&sheet.near, ""), (&sheet.far, "-far")] {
            if !rows.is_empty() {
                let file = folder.join(format!("{}{suffix}.svg", sheet.key.replace('/', "-")));
                std::fs::write(file, plot(sheet, rows, suffix))?;
            }
        }
    }
    Ok(())
}

fn plot(sheet: &Sheet, rows: &[Row], suffix: &str) -> String {
    let nanos = |row: &Row| row.percentiles.map_or(row.nanos.median, |p| p[0]);
    let most = rows.iter().map(nanos).fold(1e-9, f64::max);
    // Where one row dwarfs the others, lengths are logarithms.
    let least = rows.iter().map(nanos).fold(f64::INFINITY, f64::min);
    let logarithmic = most / least > 30.0;
    let room = WIDTH - NAMES - 110.0;
    let length = |value: f64| {
        let share = if logarithmic {
            (value / least * 2.0).ln() / (most / least * 2.0).ln()
        } else {
            value / most
        };
        (share * room).clamp(1.0, room * 1.1)
    };
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let scale = if logarithmic { ", logarithmic" } else { "" };
    let mut text = String::new();
    let _ = write!(
        text,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/><text x="12" y="22" font-size="15" font-weight="bold">{}{suffix}</text><text x="12" y="39" fill="#666">ns per operation{scale}; less is better</text>"##,
        escaped(&sheet.title)
    );
    for (at, row) in rows.iter().enumerate() {
        let y = TOP + ROW * at as f64;
        let colour = match row.role {
            crate::Role::Limit => "#9aa0a6",
            crate::Role::Ours => "#1a73e8",
            crate::Role::Peer => "#f29900",
        };
        let threads = if row.place == "threads" { " (threads)" } else { "" };
        let (bar, from, to) = (length(nanos(row)), length(row.nanos.min), length(row.nanos.max));
        let middle = y + 9.0;
        let _ = write!(
            text,
            r##"<text x="{}" y="{}" text-anchor="end">{}{threads}</text><rect x="{NAMES}" y="{y}" width="{bar:.1}" height="17" fill="{colour}"/>"##,
            NAMES - 8.0,
            y + 13.0,
            escaped(&row.name)
        );
        if row.percentiles.is_none() {
            let _ = write!(
                text,
                r##"<path d="M{:.1} {middle}H{:.1}" stroke="#222"/>"##,
                NAMES + from,
                NAMES + to
            );
        }
        let _ = write!(
            text,
            r##"<text x="{:.1}" y="{}">{:.2}</text>"##,
            NAMES + bar.max(to) + 6.0,
            y + 13.0,
            nanos(row)
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
