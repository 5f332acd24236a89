//! Which objects a verification reads.

use std::collections::HashSet;

use jiff::Timestamp;
use walvault_archive::archive::Listed;
use walvault_archive::catalog::Catalog;
use walvault_store::chance;

use super::{Depth, Run, is_lasting, names};

/// Which of the objects in question are read. Shares are above 0 and at most 1, of all objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// All of them.
    All,
    /// A share, by chance.
    Sample(f64),
    /// A share: those that were not read for longest, so that a share a day gets through all.
    LongestUnread(f64),
}

impl Run {
    /// Decides which objects are read.
    pub(super) fn choose(&mut self, catalog: &Catalog, listing: &[Listed]) {
        if self.scope.depth == Depth::Names {
            return;
        }
        let mut due: Vec<(Option<Timestamp>, String)> = Vec::new();
        for object in listing {
            let old = self
                .scope
                .since
                .is_some_and(|since| object.modified < since);
            if old || !is_lasting(&object.key) {
                continue;
            }
            let name = self.archive.name(&object.key);
            if let Some(id) = &self.scope.backup {
                let is_part = self.parts.contains_key(&name);
                if !is_part && !names::belongs_to(catalog, id, &object.key) {
                    continue;
                }
            }
            if self.is_remembered(&name, object.size) {
                self.done.remembered += 1;
                continue;
            }
            due.push((self.memory.get(&name).map(|seen| seen.at), name));
        }
        let most = |share: f64| (listing.len() as f64 * share).ceil() as usize;
        match self.scope.choice {
            Choice::All => {}
            Choice::Sample(share) => {
                due.sort_by_cached_key(|_| (chance::fraction() * f64::from(u32::MAX)) as u32);
                due.truncate(most(share));
            }
            Choice::LongestUnread(share) => {
                due.sort();
                due.truncate(most(share));
            }
        }
        self.wanted = due
            .into_iter()
            .map(|(_, name)| name)
            .collect::<HashSet<_>>();
    }

    /// Whether it was found sound lately, as closely as is asked now.
    fn is_remembered(&self, name: &str, size: u64) -> bool {
        let Some(since) = self.scope.trust_since else {
            return false;
        };
        self.memory.get(name).is_some_and(|seen| {
            seen.size == size && seen.at >= since && seen.depth >= self.scope.depth
        })
    }
}
