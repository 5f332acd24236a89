//! Results of the simple query protocol and of replication commands, gathered message by message.

use bytes::Bytes;

use super::{Frame, ProtocolError, backend, tag};

/// A result set, values in text format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryResult {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The columns' types by OID, as many as `columns`.
    pub types: Vec<u32>,
    /// The rows; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
}

impl QueryResult {
    /// The text in `row` and `column`, counted from 0; `None` when there is none, it is NULL or
    /// it is not UTF-8.
    #[must_use]
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        let value = self.rows.get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(value).ok()
    }
}

/// Gathers the messages of one answer into result sets.
#[derive(Debug, Default)]
pub struct ResultBuilder {
    current: Option<QueryResult>,
}

impl ResultBuilder {
    /// Takes the next message; gives a result set when it is complete.
    ///
    /// # Errors
    /// When the message is not part of a result, or malformed.
    pub fn on(
        &mut self,
        frame: &Frame,
        during: &'static str,
    ) -> Result<Option<QueryResult>, ProtocolError> {
        match frame.tag {
            tag::ROW_DESCRIPTION => {
                let described = backend::row_description(frame)?;
                self.current = Some(QueryResult {
                    types: described.iter().map(|column| column.type_oid).collect(),
                    columns: described.into_iter().map(|column| column.name).collect(),
                    rows: Vec::new(),
                });
                Ok(None)
            }
            tag::DATA_ROW => {
                let current = self.current.as_mut();
                let current = current.ok_or_else(|| ProtocolError::unexpected(frame, during))?;
                current.rows.push(backend::data_row(frame)?);
                Ok(None)
            }
            tag::COMMAND_COMPLETE => Ok(self.current.take()),
            tag::EMPTY_QUERY_RESPONSE => Ok(None),
            _ => Err(ProtocolError::unexpected(frame, during)),
        }
    }
}
