//! The kinds of requests to a store.

/// What was asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Storing an object.
    Put,
    /// Reading one, or some of it.
    Get,
    /// Asking after one.
    Head,
    /// A page of a listing.
    List,
    /// Removing one.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 5] = [
        Operation::Put,
        Operation::Get,
        Operation::Head,
        Operation::List,
        Operation::Delete,
    ];

    /// Its name, as in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
        }
    }
}
