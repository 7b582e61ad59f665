//! Markdown tables, aligned so that they also read well in a terminal.

/// A Markdown table, columns of figures right-aligned. Without rows it is empty.
pub(super) fn table(header: &[String], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns: Vec<Column> = (0..header.len()).map(|index| Column::of(index, header, rows)).collect();
    let line = |cells: &[String]| {
        let cells = columns.iter().zip(cells).map(|(column, cell)| column.cell(cell));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = format!("|{}\n", columns.iter().map(Column::rule).collect::<String>());
    line(header) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// How a column of a table is set.
struct Column {
    width: usize,
    figures: bool,
}

impl Column {
    fn of(index: usize, header: &[String], rows: &[Vec<String>]) -> Self {
        let cells = || rows.iter().map(|row| &row[index]);
        let width = cells().chain([&header[index]]).map(|cell| cell.chars().count()).max().unwrap_or(0);
        Self { width, figures: !cells().any(|cell| cell.contains(char::is_alphabetic)) }
    }

    fn cell(&self, cell: &str) -> String {
        let width = self.width;
        if self.figures { format!(" {cell:>width$} |") } else { format!(" {cell:<width$} |") }
    }

    fn rule(&self) -> String {
        let dashes = "-".repeat(self.width + 1);
        if self.figures { format!("{dashes}:|") } else { format!("-{dashes}|") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let rows = [row(["long name", "1"]), row(["µ", "22222"])];
        let expected = "| name      |     n |\n|-----------|------:|\n| long name |     1 |\n| µ         | 22222 |\n";
        assert_eq!(table(&row(["name", "n"]), &rows), expected);
    }
}
