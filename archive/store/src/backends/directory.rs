//! `file:///path`

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::Backend;
use crate::{DirectoryStore, SharedStore};

/// Archives in directories.
pub(super) static BACKEND: Backend = Backend {
    scheme: "file",
    form: "file:///path",
    credentials: None,
    parse,
    open: |place, _| {
        Box::pin(async move { Ok(Arc::new(DirectoryStore::open(place)?) as SharedStore) })
    },
};

fn parse(place: &str) -> Result<String, String> {
    // A URL ends its path there, or drops them: another directory than the one that was meant.
    let special = |c: &char| matches!(c, '#' | '?' | '\\') || c.is_ascii_control();
    if let Some(special) = place.chars().find(special) {
        return Err(format!(
            "{special:?} is not part of a path in a URL; write %{:02X} for it",
            u32::from(special)
        ));
    }
    // The URL's host: a name after two slashes is easily meant as a directory.
    let url = Some(place).filter(|place| place.starts_with('/'));
    let url = url.and_then(|place| Url::parse(&format!("file://{place}")).ok());
    let path = url.and_then(|url| url.to_file_path().ok());
    // Two spellings of one path must not pass for two stores.
    let path = path.map(|path| path.components().collect::<PathBuf>());
    path.and_then(|path| path.into_os_string().into_string().ok())
        .ok_or_else(|| "write an absolute path: file:///path".to_owned())
}
