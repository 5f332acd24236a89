use std::sync::atomic::Ordering;
use std::time::Duration;

use walvault_layout::KEYS_PREFIX;
use walvault_store::list_all;
use walvault_store::on_the_way::OnTheWay;

use super::*;
use crate::keys::wrap::WrappedKey;
use crate::keys::{
    AgeIdentity, Identity, KeyAccess, KeyFile, RotationPolicy, Secret, SigningKey, Trust,
};

const ARCHIVE: [u8; 16] = *b"an archive of us";

/// The writer of everybody here.
fn writer() -> SigningKey {
    SigningKey::from_seed(&Secret::from_bytes(&zeroize::Zeroizing::new([0xED; 32])))
}

struct Bench {
    store: Arc<OnTheWay>,
    file: Arc<KeyFile>,
    folder: tempfile::TempDir,
    public: String,
}

impl Bench {
    /// Two data keys for one key file.
    async fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a directory");
        let public = AgeIdentity::generate(&folder.path().join("identity")).expect("a pair");
        let bench = Bench {
            store: Arc::default(),
            file: Arc::new(KeyFile::from_secret(Secret::generate().expect("bits"))),
            folder,
            public,
        };
        for _ in 0..2 {
            bench.with_file().rotate().await.expect("a data key");
        }
        bench
    }

    fn ring(&self, recipients: Vec<Recipient>, identities: Vec<Identity>) -> Keyring {
        let rotation = RotationPolicy {
            after: Duration::ZERO,
            after_bytes: 0,
        };
        let trust = Trust {
            signing_key: Some(writer()),
            writers: Vec::new(),
        };
        let access = KeyAccess::trusting(recipients, identities, rotation, trust);
        Keyring::new(ARCHIVE, self.store.clone(), access)
    }

    fn with_file(&self) -> Keyring {
        self.ring(
            vec![Recipient::KeyFile(self.file.clone())],
            vec![Identity::KeyFile(self.file.clone())],
        )
    }

    fn with_age(&self) -> Keyring {
        let path = self.folder.path().join("identity");
        self.ring(Vec::new(), Identity::read(&path).expect("an identity"))
    }

    fn age(&self) -> Recipient {
        Recipient::parse(&self.public).expect("a recipient")
    }

    async fn opens(&self, ring: &Keyring) -> Vec<bool> {
        let epochs = ring.epochs().await.expect("loaded");
        let mut opens = Vec::new();
        for epoch in &epochs {
            opens.push(ring.open_anew(epoch).await.is_ok());
        }
        opens
    }

    async fn generations(&self) -> Vec<String> {
        let keys = list_all(&*self.store, KEYS_PREFIX).await.expect("listed");
        let generation = |key: &str| key.rsplit('/').next().map(str::to_owned);
        keys.iter()
            .filter_map(|object| generation(&object.key))
            .collect()
    }
}

async fn apply(ring: &Keyring, add: &[Recipient], remove: &[String]) -> Result<(), RewrapError> {
    for step in ring.plan_rewrap(add, remove).await? {
        ring.rewrap(&step).await?;
    }
    Ok(())
}

/// What is carried over may be opened by nobody here, and what it supersedes is gone.
#[tokio::test]
async fn an_altered_answer_is_in_no_new_generation() {
    let bench = Bench::new().await;
    let add = [bench.age()];
    apply(&bench.with_file(), &add, &[]).await.expect("added");
    let remove = [Recipient::KeyFile(bench.file.clone()).name()];
    bench.store.damaging.store(2, Ordering::Relaxed);
    apply(&bench.with_age(), &[], &remove)
        .await
        .expect("removed");
    assert_eq!(bench.store.damaging.load(Ordering::Relaxed), 0);
    assert_eq!(bench.opens(&bench.with_age()).await, [true, true]);
}

#[tokio::test]
async fn recipients_come_and_go_with_every_data_key() {
    let bench = Bench::new().await;
    assert_eq!(bench.opens(&bench.with_age()).await, [false, false]);
    let add = [bench.age()];
    apply(&bench.with_file(), &add, &[]).await.expect("added");
    assert_eq!(bench.opens(&bench.with_age()).await, [true, true]);
    assert_eq!(bench.opens(&bench.with_file()).await, [true, true]);
    // It changes nothing a second time.
    apply(&bench.with_file(), &add, &[]).await.expect("added");
    let twice = ["00000001", "00000002", "00000001", "00000002"];
    assert_eq!(bench.generations().await, twice);

    // Who was removed finds nothing to open, not even an earlier generation.
    let file = Recipient::KeyFile(bench.file.clone()).name();
    let remove = [file.clone()];
    apply(&bench.with_age(), &[], &remove)
        .await
        .expect("removed");
    assert_eq!(bench.opens(&bench.with_file()).await, [false, false]);
    assert_eq!(bench.opens(&bench.with_age()).await, [true, true]);
    assert_eq!(bench.generations().await, ["00000003", "00000003"]);

    let last = [bench.age().name()];
    let refused = apply(&bench.with_age(), &[], &last).await;
    assert!(matches!(refused, Err(RewrapError::NothingLeft { .. })));
    let refused = apply(&bench.with_age(), &[], &remove).await;
    assert!(matches!(refused, Err(RewrapError::NotARecipient { .. })));
    assert_eq!(bench.generations().await, ["00000003", "00000003"]);
}

#[tokio::test]
async fn nothing_is_written_when_one_data_key_does_not_open() {
    let bench = Bench::new().await;
    let other = Arc::new(KeyFile::from_secret(Secret::generate().expect("bits")));
    let stranger = bench.ring(
        vec![Recipient::KeyFile(other.clone())],
        vec![Identity::KeyFile(other)],
    );
    let _ = stranger
        .rotate()
        .await
        .expect("a data key of somebody else's");
    let refused = apply(&bench.with_file(), &[bench.age()], &[]).await;
    assert!(matches!(
        refused,
        Err(RewrapError::Key(KeyError::CannotUnwrap { .. }))
    ));
    assert_eq!(bench.generations().await, ["00000001"; 3]);
}

/// Signed anew, it would be believed.
#[tokio::test]
async fn a_foreign_data_key_is_not_wrapped_for_anybody() {
    let bench = Bench::new().await;
    let rotation = RotationPolicy {
        after: Duration::ZERO,
        after_bytes: 0,
    };
    let trust = Trust {
        signing_key: Some(SigningKey::ephemeral().expect("bits")),
        writers: Vec::new(),
    };
    let forger = KeyAccess::trusting(vec![bench.age()], Vec::new(), rotation, trust);
    let forger = Keyring::new(ARCHIVE, bench.store.clone(), forger);
    let forged = forger.rotate().await.expect("a data key");
    apply(&bench.with_file(), &[bench.age()], &[])
        .await
        .expect("added");
    let epochs = bench.with_age().epochs().await.expect("listed");
    let generations = epochs
        .iter()
        .map(|epoch| (epoch.id == forged, epoch.generation));
    assert_eq!(
        generations.collect::<Vec<_>>(),
        [(true, 1), (false, 2), (false, 2)]
    );
    assert_eq!(bench.opens(&bench.with_age()).await, [false, true, true]);
}

#[tokio::test]
async fn two_that_rewrap_at_once_do_not_undo_each_other() {
    let bench = Bench::new().await;
    let ring = bench.with_file();
    let plan = ring.plan_rewrap(&[bench.age()], &[]).await.expect("a plan");
    apply(&ring, &[bench.age()], &[]).await.expect("added");
    let late = ring.rewrap(&plan[0]).await;
    assert!(matches!(
        late,
        Err(RewrapError::Raced { generation: 2, .. })
    ));
    assert_eq!(bench.opens(&bench.with_age()).await, [true, true]);
}

/// A bit may have been wrong when a generation was signed.
#[tokio::test]
async fn nothing_is_erased_before_what_stays_is_opened() {
    let bench = Bench::new().await;
    let file = Recipient::KeyFile(bench.file.clone());
    apply(&bench.with_file(), &[bench.age()], &[])
        .await
        .expect("added");
    for epoch in bench.with_file().epochs().await.expect("loaded") {
        let mut record = epoch.record.expect("a record");
        record.generation = 3;
        for wrapped in &mut record.recipients {
            if let WrappedKey::Age { wrapped, .. } = wrapped {
                "Z2FyYmFnZQ==".clone_into(wrapped);
            }
        }
        let json = record.sign(&ARCHIVE, [&writer()]);
        let body = walvault_store::Body::new(json.into());
        let name = epochs::name(epoch.id, 3);
        walvault_store::ObjectStore::put(&*bench.store, &name, body)
            .await
            .expect("planted");
    }
    let remove = [file.name()];
    let before = bench.generations().await;
    for ring in [bench.with_file(), bench.with_age()] {
        let refused = apply(&ring, &[], &remove).await;
        assert!(matches!(refused, Err(RewrapError::NotProven { .. })));
        assert_eq!(bench.generations().await, before);
    }
    // Who has the public key of the one that stays wraps anew for it.
    let identities = vec![Identity::KeyFile(bench.file.clone())];
    let ring = bench.ring(vec![bench.age()], identities);
    apply(&ring, &[], &remove).await.expect("removed");
    assert_eq!(bench.opens(&bench.with_age()).await, [true, true]);
    assert_eq!(bench.opens(&bench.with_file()).await, [false, false]);
}
