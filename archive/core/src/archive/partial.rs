//! What can be read of an object without all of it: its meta frame, and the frames that are needed.
//!
//! The object's own SHA-256, and the CRC-32C of its payload, are of the whole and cannot be checked so;
//! each frame is authentic by itself, in its place, under the object's name.

use std::ops::Range;

use bytes::Bytes;
use walvault_layout::ObjectKey;
use walvault_store::StoreError;
use walvault_store::compute;

use super::again::{Again, again};
use super::{META_GUESS, kind_of};
use crate::format::{FOOTER_LEN, FRAME_SIZE, HEADER_LEN, Meta};
use crate::keys::DataKey;
use crate::seal::{FrameError, OpenError, SealedMeta};
use crate::{Archive, Error};

/// Frames between two that are needed are fetched with them up to this many: a request costs more.
const GAP: usize = 4;

impl Archive {
    /// Reads and verifies an object's meta frame alone, with two or three small requests.
    /// `size` is the object's, as listed.
    ///
    /// # Errors
    /// When it is not there, or is not what was stored under this name.
    pub async fn get_meta(&self, key: &ObjectKey, size: u64) -> Result<Meta, Error> {
        Ok(self.meta_again(key, size).await?.0)
    }

    /// Reads the frames of an object that hold `spans` of its payload, and no others, and hands them to
    /// `take` in order with where they begin in the payload, each as soon as it is authentic. `size` is
    /// the object's. Memory holds what lies side by side at once. Returns `state`.
    ///
    /// # Errors
    /// When the object is not there, or is not what was stored under this name, or ends before a span
    /// does; and what `take` returns.
    pub async fn read_spans<T, E>(
        &self,
        key: &ObjectKey,
        size: u64,
        spans: &[Range<u64>],
        mut state: T,
        mut take: impl FnMut(&mut T, u64, &[u8]) -> Result<(), E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let name = self.name(key);
        let corrupt = |source| self.corrupt(&name, source);
        let (meta, sealed, data_key) = self.meta_again(key, size).await?;
        if spans.iter().any(|span| span.end > meta.length) {
            return Err(corrupt(OpenError::Payload("length")).into());
        }
        let (meta, id) = (std::sync::Arc::new(meta), self.inner.id);
        for frames in runs(spans) {
            let (mut frames, mut again) = (frames, Again::new());
            while !frames.is_empty() {
                let stored = place(&meta, &frames);
                let bytes = self.inner.store.get(&name, Some(stored)).await;
                let bytes: Bytes = bytes.map_err(Error::from)?;
                let (meta, sealed, data_key) = (meta.clone(), sealed.clone(), data_key.clone());
                let (sealed_name, end, mut next) = (name.clone(), frames.end, frames.start);
                let open = move || {
                    let take_frame = |index: usize, frame: &[u8]| {
                        next = index + 1;
                        take(&mut state, index as u64 * FRAME_SIZE as u64, frame)
                    };
                    let opened = sealed.open_frames(
                        &data_key,
                        &id,
                        &sealed_name,
                        &meta,
                        frames,
                        &bytes,
                        take_frame,
                    );
                    (opened, next, state, take)
                };
                let opened;
                (opened, next, state, take) = compute::elsewhere(open).await;
                match opened {
                    Ok(()) => next = end,
                    Err(FrameError::Take(error)) => return Err(error),
                    Err(FrameError::Open(source)) => again.after(&name, corrupt(source))?,
                }
                // Those before the one that did not open are authentic and were taken.
                frames = next..end;
            }
        }
        Ok(state)
    }

    /// As [`Archive::meta`], read again where it does not open.
    async fn meta_again(
        &self,
        key: &ObjectKey,
        size: u64,
    ) -> Result<(Meta, SealedMeta, std::sync::Arc<DataKey>), Error> {
        again(&self.name(key), || self.meta(key, size)).await
    }

    /// The opened meta frame, with what it takes to open others.
    async fn meta(
        &self,
        key: &ObjectKey,
        size: u64,
    ) -> Result<(Meta, SealedMeta, std::sync::Arc<DataKey>), Error> {
        let name = self.name(key);
        let corrupt = |source| self.corrupt(&name, source);
        let store = &self.inner.store;
        if size < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(corrupt(OpenError::Length {
                expected: (HEADER_LEN + FOOTER_LEN) as u64,
                actual: size,
            }));
        }
        StoreError::check_size(self.url(), &name, size).map_err(Error::from)?;
        let (head, mut tail) = if size <= META_GUESS {
            let whole = store.get(&name, None).await?;
            (whole.clone(), whole)
        } else {
            let head = store.get(&name, Some(0..HEADER_LEN as u64));
            let tail = store.get(&name, Some(size - META_GUESS..size));
            tokio::try_join!(head, tail)?
        };
        let needed = SealedMeta::tail_needed(&tail).map_err(corrupt)?;
        if needed > tail.len() as u64 {
            let start = size.checked_sub(needed).ok_or_else(|| {
                corrupt(OpenError::Length {
                    expected: needed,
                    actual: size,
                })
            })?;
            tail = store.get(&name, Some(start..size)).await?;
        }
        let sealed = SealedMeta::new(&head, &tail).map_err(corrupt)?;
        let data_key = self.inner.keyring.get(sealed.key_id()).await?;
        let meta = sealed.open(&data_key, &self.inner.id, kind_of(key), &name);
        Ok((meta.map_err(corrupt)?, sealed, data_key))
    }
}

/// The frames that hold `spans`, as runs, in order.
fn runs(spans: &[Range<u64>]) -> Vec<Range<usize>> {
    let frame = |at: u64| (at / FRAME_SIZE as u64) as usize;
    let mut needed: Vec<Range<usize>> = spans
        .iter()
        .filter(|span| !span.is_empty())
        .map(|span| frame(span.start)..frame(span.end - 1) + 1)
        .collect();
    needed.sort_by_key(|frames| frames.start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for frames in needed {
        match runs.last_mut() {
            Some(last) if frames.start <= last.end + GAP => last.end = last.end.max(frames.end),
            _ => runs.push(frames),
        }
    }
    runs
}

/// Where `frames` lie in the object.
fn place(meta: &Meta, frames: &Range<usize>) -> Range<u64> {
    let stored = |frames: Range<usize>| -> u64 {
        let entries = &meta.frames[frames];
        entries.iter().map(|entry| u64::from(entry.stored)).sum()
    };
    let start = HEADER_LEN as u64 + stored(0..frames.start);
    start..start + stored(frames.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_near_each_other_are_one_request() {
        const FRAME: u64 = FRAME_SIZE as u64;
        // As pairs: where spans begin and end, and where runs do.
        type Pairs<T> = &'static [(T, T)];
        let cases: [(Pairs<u64>, Pairs<usize>); 6] = [
            (&[], &[]),
            (&[(7, 7), (8, 8)], &[]),
            (&[(FRAME - 1, FRAME + 1), (0, 1)], &[(0, 2)]),
            (&[(20 * FRAME, 21 * FRAME), (0, 1)], &[(0, 1), (20, 21)]),
            (&[(0, 1), (5 * FRAME, 5 * FRAME + 1)], &[(0, 6)]),
            (&[(0, 9 * FRAME), (FRAME, 2 * FRAME)], &[(0, 9)]),
        ];
        for (spans, expected) in cases {
            let spans: Vec<Range<u64>> = spans.iter().map(|(start, end)| *start..*end).collect();
            let found = runs(&spans).into_iter().map(|run| (run.start, run.end));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{spans:?}");
        }
    }
}
