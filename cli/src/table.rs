//! Plain tables: columns as wide as their widest cell, no colours, no frames.
//!
//! A row is one line, whatever stands in its cells.

use core::fmt;

/// Rows of cells under a line of headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: &'static [Column],
    rows: Vec<Vec<String>>,
}

/// A heading, and on which side its cells are flush.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    const fn heading(self) -> &'static str {
        match self {
            Self::Left(text) | Self::Right(text) => text,
        }
    }
}

impl Table {
    pub(crate) const fn new(headings: &'static [Column]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| match text.trim() {
            "" => "-".to_owned(),
            text => text.replace('\n', "\\n"),
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn write_row<'a>(
        &self,
        f: &mut fmt::Formatter<'_>,
        widths: &[usize],
        cells: impl Iterator<Item = &'a str>,
    ) -> fmt::Result {
        let mut line = String::new();
        for ((column, width), cell) in self.headings.iter().zip(widths).zip(cells) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match column {
                Column::Left(_) => line.push_str(&format!("{cell:<width$}")),
                Column::Right(_) => line.push_str(&format!("{cell:>width$}")),
            }
        }
        f.write_str(line.trim_end())
    }
}

impl fmt::Display for Table {
    /// Without a line end behind the last row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells
                    .map(|cell| cell.chars().count())
                    .chain([self.headings[at].heading().len()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        self.write_row(f, &widths, self.headings.iter().map(|column| column.heading()))?;
        for row in &self.rows {
            f.write_str("\n")?;
            self.write_row(f, &widths, row.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_a_row_is_one_line() {
        let mut table = Table::new(&[Column::Left("NAME"), Column::Right("LAG")]);
        table.row(["a\nlong one".to_owned(), "7".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME         LAG\na\\nlong one    7\nb              -");
    }
}
