//! Data of pictures as CSV.

use csv::{Writer, WriterBuilder};

/// A table in the making: a row at a time, fields quoted where they have to be.
pub struct Table(Writer<Vec<u8>>);

impl Table {
    /// A table with the names of its columns.
    pub fn new<T: AsRef<[u8]>>(head: impl IntoIterator<Item = T>) -> Self {
        // Rows of whatever length: a row then has no way to fail.
        let mut table = Self(WriterBuilder::new().flexible(true).from_writer(Vec::new()));
        table.row(head);
        table
    }

    /// One more row.
    pub fn row<T: AsRef<[u8]>>(&mut self, fields: impl IntoIterator<Item = T>) {
        // Memory takes whatever is written to it.
        let _ = self.0.write_record(fields);
    }

    /// The table as text.
    pub fn text(self) -> String {
        self.0.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// A number, or nothing where there is none.
pub fn number(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let rows = [["a,b", "say \"x\""], ["two\nlines", ""], ["é", "3"]];
        let mut table = Table::new(["one", "two"]);
        rows.iter().for_each(|row| table.row(row));
        let text = table.text();
        assert!(text.starts_with("one,two\n\"a,b\",\"say \"\"x\"\"\"\n"), "{text}");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let read: Vec<Vec<String>> = reader
            .records()
            .map(|r| r.into_iter().flat_map(|r| r.iter().map(str::to_owned).collect::<Vec<_>>()).collect())
            .collect();
        assert_eq!(read, rows.map(|row| row.map(str::to_owned).to_vec()));
        assert_eq!((number(Some(2.5)), number(None::<u64>)), ("2.5".to_owned(), String::new()));
    }
}
