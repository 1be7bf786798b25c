//! `hugeshm inspect`: all that is inside one segment.

use crate::output::{Failure, Format};
use crate::place::Place;
use crate::table::{Column, Table};
use crate::words::{self, Users};
use clap::Args;
use core::fmt;
use hugeshm::{ObjectInfo, PeerState, Schema, SegmentInfo, format_bytes};
use serde::Serialize;
use std::process::ExitCode;

/// Show all that is inside a segment, without taking part.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name.
    name: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    info: SegmentInfo,
    /// The owner's name, if the number has one.
    owner: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_segment(f)?;
        self.write_attachments(f)?;
        for object in &self.info.objects {
            write!(f, "\n\n")?;
            write_object(f, object)?;
        }
        for (index, problem) in self.info.problems.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            write!(f, "{gap}\nproblem: {}", problem.replace('\n', " "))?;
        }
        Ok(())
    }
}

impl Report {
    fn write_segment(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        let entry = &info.entry;
        writeln!(f, "segment   {} in domain {}", entry.name, entry.domain)?;
        if let Some(identity) = &entry.identity {
            writeln!(f, "identity  {identity}")?;
        }
        let gone = if info.superseded { ", superseded: its name was taken away" } else { "" };
        writeln!(f, "usage     {}{gone}", entry.usage)?;
        write!(f, "pages     {}", format_bytes(entry.length))?;
        if let Some(size) = entry.page_size {
            write!(f, " on {} x {size}", size.pages_for(entry.length))?;
        }
        if let Some(rung) = info.rung {
            write!(f, ", rung {rung}")?;
        }
        writeln!(f, ", {}", entry.location.replace('\n', "\\n"))?;
        if info.rung.is_some() {
            let free = entry.length.saturating_sub(info.used);
            writeln!(f, "used      {}, {} free", format_bytes(info.used), format_bytes(free))?;
        }
        match &self.owner {
            Some(name) => writeln!(f, "owner     {name} ({})", entry.uid)?,
            None => writeln!(f, "owner     {}", entry.uid)?,
        }
        let created = words::moment(info.created_nanos);
        writeln!(f, "created   {created} by process {}", info.creator_pid)?;
        write!(f, "layout    {}.{}", info.layout.0, info.layout.1)
    }

    fn write_attachments(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.info.attachments.is_empty() {
            return Ok(());
        }
        let mut users = Users::default();
        let mut table = Table::new(&[
            Column::Right("ATTACHMENT"),
            Column::Right("PID"),
            Column::Left("STATE"),
            Column::Left("USER"),
            Column::Right("EPOCH"),
            Column::Left("SINCE"),
        ]);
        for slot in &self.info.attachments {
            table.row([
                slot.number.to_string(),
                slot.pid.to_string(),
                words::state(slot.state).to_owned(),
                users.text(slot.uid),
                slot.epoch.to_string(),
                words::moment(slot.since_nanos),
            ]);
        }
        write!(f, "\n\n{table}")
    }
}

fn write_object(f: &mut fmt::Formatter<'_>, object: &ObjectInfo) -> fmt::Result {
    write!(f, "object {} {}: {}", object.index, object.name, object.kind)?;
    write!(f, ", capacity {}", object.capacity)?;
    if object.stride > 0 {
        write!(f, ", stride {}", object.stride)?;
    }
    write!(f, ", payload {}", format_bytes(object.payload_bytes))?;
    write!(f, " aligned to {}", object.payload_align)?;
    if object.user_header > 0 {
        write!(f, ", user header {}", object.user_header)?;
    }
    if object.type_size > 0 || !object.type_identity.name.is_empty() {
        let identity = &object.type_identity;
        let name = if identity.name.is_empty() { "unnamed" } else { &identity.name };
        write!(f, ", type {name} {}.{}", identity.major, identity.minor)?;
        write!(f, " of {} bytes", object.type_size)?;
    }
    if object.schema_bytes > 0 {
        let format = match object.schema_format {
            Schema::FIELDS => "fields".to_owned(),
            number => format!("format {number}"),
        };
        write!(f, ", schema of {} bytes ({format})", object.schema_bytes)?;
    }
    if let Some(lag) = object.lag {
        write!(f, ", lag {lag}")?;
    }
    let mut table = Table::new(&[
        Column::Left("ENDPOINT"),
        Column::Left("STATE"),
        Column::Right("PID"),
        Column::Left("LABEL"),
        Column::Right("EPOCH"),
        Column::Right("MESSAGES"),
        Column::Right("BYTES"),
        Column::Right("LAG"),
        Column::Right("FULL"),
        Column::Right("EMPTY"),
        Column::Right("DROPS"),
        Column::Right("GAPS"),
        Column::Right("SLEEPS"),
        Column::Right("WAKES"),
        Column::Right("HIGH"),
        Column::Left("SINCE"),
    ]);
    let shown = object.endpoints.iter().filter(|end| !words::is_spare(object, end));
    for endpoint in shown {
        let stats = &endpoint.stats;
        let never = endpoint.state == PeerState::Never;
        let who = |text: String| if never { String::new() } else { text };
        table.row([
            words::end(endpoint),
            words::state(endpoint.state).to_owned(),
            who(endpoint.pid.to_string()),
            endpoint.label.clone(),
            endpoint.epoch.to_string(),
            stats.messages.to_string(),
            stats.bytes.to_string(),
            endpoint.lag.map(|lag| lag.to_string()).unwrap_or_default(),
            stats.full.to_string(),
            stats.empty.to_string(),
            stats.drops.to_string(),
            stats.gaps.to_string(),
            stats.sleeps.to_string(),
            stats.wakes.to_string(),
            stats.high_water.to_string(),
            who(words::moment(endpoint.since_nanos)),
        ]);
    }
    if !table.is_empty() {
        write!(f, "\n{table}")?;
    }
    if let Some(spares) = words::spares(object) {
        write!(f, "\n{spares}")?;
    }
    Ok(())
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let info = self.place.domain()?.inspect(&self.name)?;
        let owner = Users::default().name(info.entry.uid);
        self.format.print(&Report { info, owner })?;
        Ok(ExitCode::SUCCESS)
    }
}
