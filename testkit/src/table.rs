//! Rows with named columns, as an admin console's SHOW commands give them.

use std::{fmt, ops::Index};

/// The result of one query, all values as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names in order.
    pub columns: Vec<String>,
    /// Rows in order, each as long as `columns`.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads psql's unaligned output with [`FIELD`] and [`RECORD`] as separators.
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix(RECORD).unwrap_or(text);
        if text.is_empty() {
            return Self::default();
        }
        let mut records = text.split(RECORD).map(|record| record.split(FIELD).map(str::to_owned).collect());
        let columns = records.next().unwrap_or_default();
        Self { columns, rows: records.collect() }
    }

    /// The rows, to be indexed by column name.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { table: self, values })
    }

    /// The first row whose `column` is `value`.
    pub fn find(&self, column: &str, value: &str) -> Option<Row<'_>> {
        self.iter().find(|row| row.value(column) == Some(value))
    }

    /// The values of one column; nothing if there is no such column.
    pub fn column(&self, column: &str) -> Vec<&str> {
        self.iter().filter_map(|row| row.value(column)).collect()
    }
}

/// One row. `row["cl_active"]` is a value by column name, and panics with the known names if there is no such column.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    values: &'a [String],
}

impl<'a> Row<'a> {
    /// The value of `column`, if there is such a column.
    pub fn value(&self, column: &str) -> Option<&'a str> {
        let index = self.table.columns.iter().position(|name| name == column)?;
        self.values.get(index).map(String::as_str)
    }
}

impl Index<&str> for Row<'_> {
    type Output = str;

    fn index(&self, column: &str) -> &str {
        self.value(column).unwrap_or_else(|| panic!("no column {column} in {:?}", self.table.columns))
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.table.columns.iter().zip(self.values)).finish()
    }
}

/// ASCII unit separator: what psql puts between fields.
pub(crate) const FIELD: char = '\u{1f}';
/// ASCII record separator: what psql puts between records.
pub(crate) const RECORD: char = '\u{1e}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_column_name() {
        let table = Table::parse("database\u{1f}cl_active\u{1e}a\u{1f}1\u{1e}b|\n\u{1f}\u{1e}\n");
        assert_eq!(table.columns, ["database", "cl_active"]);
        assert_eq!(&table.find("database", "a").unwrap()["cl_active"], "1");
        assert_eq!(table.column("database"), ["a", "b|\n"]);
        assert_eq!(table.find("database", "c").map(|_| ()), None);
    }

    #[test]
    fn a_command_without_rows_gives_an_empty_table() {
        assert_eq!(Table::parse(""), Table::default());
        assert_eq!(Table::parse("\n"), Table::default());
    }
}
