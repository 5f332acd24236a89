use std::sync::atomic::Ordering;
use std::time::Duration;

use walvault_layout::KEYS_PREFIX;
use walvault_store::list_all;
use walvault_store::on_the_way::OnTheWay;

use super::*;
use crate::keys::KmsSettings;
use crate::keys::{AgeIdentity, Identity, KeyAccess, KeyFile, RotationPolicy, Secret};

const ARCHIVE: [u8; 16] = *b"an archive of us";

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
        let access = KeyAccess::new(recipients, identities, KmsSettings::default(), rotation);
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
        let epochs = epochs::load(&*self.store, epochs::ONCE)
            .await
            .expect("loaded");
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

/// Whoever can write to a store can put a generation in which what is stored for a recipient is garbage.
#[tokio::test]
async fn nothing_is_erased_before_what_stays_is_opened() {
    let bench = Bench::new().await;
    let file = Recipient::KeyFile(bench.file.clone());
    apply(&bench.with_file(), &[bench.age()], &[])
        .await
        .expect("added");
    for epoch in epochs::load(&*bench.store, epochs::ONCE)
        .await
        .expect("loaded")
    {
        let mut record = epoch.record.expect("a record");
        for wrapped in &mut record.recipients {
            if let crate::keys::wrap::WrappedKey::Age { wrapped, .. } = wrapped {
                "Z2FyYmFnZQ==".clone_into(wrapped);
            }
        }
        let json = serde_json::to_vec(&record).expect("JSON");
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
