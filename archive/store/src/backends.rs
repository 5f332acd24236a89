//! The kinds of stores, each chosen by the scheme of an archive's URL.

use futures_util::future::BoxFuture;

use super::{S3Settings, SharedStore, StoreError};

mod directory;
mod s3;

/// Every kind of store that an archive can be in.
pub static BACKENDS: [&Backend; 2] = [&s3::BACKEND, &directory::BACKEND];

/// The options tables of the stores that have one. A store reads its own and no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// `[archive.s3]`
    pub s3: S3Settings,
}

/// A kind of store.
#[derive(Debug)]
pub struct Backend {
    /// The scheme of its URLs, such as `s3`.
    pub scheme: &'static str,
    /// The form of its URLs, for messages.
    pub form: &'static str,
    /// What the names of the environment variables begin with that hold its credentials, if any do.
    pub credentials: Option<&'static str>,
    /// Checks what follows `://` and spells it the one way. An error says what is wrong without
    /// showing what could be a secret.
    pub(super) parse: fn(&str) -> Result<String, String>,
    /// Opens a store by what `parse` returned.
    pub(super) open: Open,
}

type Open = for<'a> fn(&'a str, &'a StoreOptions) -> BoxFuture<'a, Result<SharedStore, StoreError>>;

impl PartialEq for Backend {
    fn eq(&self, other: &Backend) -> bool {
        self.scheme == other.scheme
    }
}

impl Eq for Backend {}
