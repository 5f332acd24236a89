//! From the server's stream to stored parts: what runs side by side while a backup is copied.

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use walvault_archive::Archive;
use walvault_archive::record::{FileRecord, PartRecord};
use walvault_archive::seal::Sealer;
use walvault_layout::BackupId;
use walvault_protocol::ServerVersion;
use walvault_protocol::client::{BackupEnd, BackupEvent, BackupStream, Tablespace};
use walvault_store::compute;
use walvault_store::compute::unfinished;

use super::error::of_client;
use super::input::{Batch, Input, Piece, Root, pipe};
use super::progress::Progress;
use super::seal::{self, Feed};
use super::tarball::{self, EndMark};
use super::warnings::Warnings;
use super::{BackupError, upload};

/// What came over the socket, contents aside.
pub(super) struct Copied {
    /// Where the backup ends.
    pub(super) end: BackupEnd,
    /// PostgreSQL's manifest, as sent.
    pub(super) manifest: Vec<u8>,
    /// Every file, directory and link.
    pub(super) files: Vec<FileRecord>,
    /// Every part, stored.
    pub(super) parts: Vec<PartRecord>,
    /// What the server warned of.
    pub(super) warnings: Vec<String>,
}

/// Reads the whole backup and stores its parts. The first thing that fails ends all of it, once the
/// uploads under way have ended; threads end when their channels close, which dropping the future does.
pub(super) async fn copy(
    archive: &Archive,
    id: &BackupId,
    sealer: Sealer,
    stream: &mut BackupStream,
    version: ServerVersion,
    part_size: u64,
    progress: &dyn Progress,
) -> Result<Copied, BackupError> {
    let end_mark = if version.major() >= 15 {
        EndMark::Required
    } else {
        EndMark::LeftOut
    };
    let (pieces, input) = pipe();
    let (feed, sealed, threads) = seal::start(archive, id, sealer, part_size);
    let parser = tokio::spawn(compute::elsewhere(move || {
        parse(input, end_mark, part_size, feed)
    }));
    let mut uploads = upload::Uploads::new();
    let copied = async {
        tokio::try_join!(
            receive(stream, pieces, progress),
            joined(parser),
            upload::store(archive, id, sealed, &mut uploads),
            all_joined(threads),
        )
    }
    .await;
    let ((end, manifest, warnings), files, parts, ()) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            upload::settle(uploads).await;
            return Err(error);
        }
    };
    Ok(Copied {
        end,
        manifest,
        files,
        parts,
        warnings: warnings.into_lines(),
    })
}

/// Forwards archives to the parser and keeps the manifest.
async fn receive(
    stream: &mut BackupStream,
    pieces: mpsc::Sender<Piece>,
    progress: &dyn Progress,
) -> Result<(BackupEnd, Vec<u8>, Warnings), BackupError> {
    let roots: Vec<Root> = stream.tablespaces().iter().map(root).collect();
    let (mut received, mut manifest) = (0, Vec::new());
    let (mut batch, mut warnings) = (Batch::default(), Warnings::default());
    loop {
        let event = stream.next().await;
        warnings.hear(stream.take_notices());
        let event = match event {
            Ok(event) => event,
            Err(error) => return Err(of_client(error, received, warnings)),
        };
        match event {
            BackupEvent::ArchiveStart { index } => {
                let root = roots.get(index).copied().unwrap_or(Root::DataDirectory);
                forward_all(&pieces, &mut batch, Piece::Archive(root)).await;
            }
            BackupEvent::Data(bytes) => {
                received += bytes.len() as u64;
                progress.received(received);
                if batch.push(bytes) {
                    forward(&pieces, Piece::Data(std::mem::take(&mut batch))).await;
                }
            }
            BackupEvent::ManifestData(bytes) => manifest.extend_from_slice(&bytes),
            BackupEvent::ManifestStart | BackupEvent::Progress(_) => {}
            BackupEvent::Finished(end) => {
                forward_all(&pieces, &mut batch, Piece::End).await;
                return Ok((end, manifest, warnings));
            }
        }
    }
}

/// Hands over what has gathered, then the boundary that follows it.
async fn forward_all(pieces: &mpsc::Sender<Piece>, batch: &mut Batch, boundary: Piece) {
    if !batch.is_empty() {
        forward(pieces, Piece::Data(std::mem::take(batch))).await;
    }
    forward(pieces, boundary).await;
}

/// Hands a piece to the parser. It stops taking them only when it has failed, which then ends
/// everything; to report anything here would hide why.
async fn forward(pieces: &mpsc::Sender<Piece>, piece: Piece) {
    if pieces.send(piece).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn root(tablespace: &Tablespace) -> Root {
    tablespace.oid.map_or(Root::DataDirectory, Root::Tablespace)
}

fn parse(
    mut input: Input,
    end_mark: EndMark,
    part_size: u64,
    mut feed: Feed,
) -> Result<Vec<FileRecord>, BackupError> {
    let files = tarball::read(&mut input, end_mark, part_size, &mut feed)?;
    feed.finish().map_err(|source| BackupError::Tar {
        archive: "the last part".to_owned(),
        source,
    })?;
    Ok(files)
}

async fn joined<T>(thread: JoinHandle<Result<T, BackupError>>) -> Result<T, BackupError> {
    match thread.await {
        Ok(result) => result,
        Err(error) => unfinished(error).await,
    }
}

async fn all_joined(mut threads: JoinSet<()>) -> Result<(), BackupError> {
    while let Some(ended) = threads.join_next().await {
        if let Err(error) = ended {
            unfinished::<()>(error).await;
        }
    }
    Ok(())
}
