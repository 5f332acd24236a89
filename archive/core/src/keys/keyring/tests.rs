use std::time::Duration;

use tempfile::TempDir;
use walvault_layout::KEYS_PREFIX;
use walvault_store::list_all;
use walvault_store::memory::MemoryStore;

use super::*;
use crate::keys::KmsSettings;
use crate::keys::{AgeIdentity, Identity, KeyFile, RotationPolicy, Secret};

const ARCHIVE: [u8; 16] = *b"an archive of us";
const NEVER: RotationPolicy = RotationPolicy {
    after: Duration::ZERO,
    after_bytes: 0,
};

fn store() -> SharedStore {
    Arc::new(MemoryStore::new())
}

fn key_file(byte: u8) -> Arc<KeyFile> {
    let secret = zeroize::Zeroizing::new([byte; 32]);
    Arc::new(KeyFile::from_secret(Secret::from_bytes(&secret)))
}

/// An age key pair.
struct Pair {
    folder: TempDir,
    public: String,
}

impl Pair {
    fn generate() -> Pair {
        let folder = tempfile::tempdir().expect("a directory");
        let public = AgeIdentity::generate(&folder.path().join("identity")).expect("a pair");
        Pair { folder, public }
    }

    fn recipient(&self) -> Recipient {
        Recipient::parse(&self.public).expect("a recipient")
    }

    fn identities(&self) -> Vec<Identity> {
        Identity::read(&self.folder.path().join("identity")).expect("an identity")
    }
}

fn access(
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
    rotation: RotationPolicy,
) -> KeyAccess {
    KeyAccess::new(recipients, identities, KmsSettings::default(), rotation)
}

fn both(byte: u8) -> KeyAccess {
    let file = key_file(byte);
    access(
        vec![Recipient::KeyFile(file.clone())],
        vec![Identity::KeyFile(file)],
        NEVER,
    )
}

fn ring(store: &SharedStore, access: &KeyAccess) -> Keyring {
    Keyring::new(ARCHIVE, store.clone(), access.clone())
}

async fn sealing(ring: &Keyring) -> KeyId {
    let key = ring.for_sealing().await.expect("a key to seal under");
    key.current().id
}

async fn count(store: &SharedStore) -> usize {
    let keys = list_all(&**store, KEYS_PREFIX).await.expect("listed");
    keys.len()
}

#[tokio::test]
async fn a_key_file_goes_on_with_the_key_there_is() {
    let store = store();
    let first = sealing(&ring(&store, &both(1))).await;
    assert_eq!(sealing(&ring(&store, &both(1))).await, first);
    let wrong = ring(&store, &both(2)).for_sealing().await;
    let refused = wrong.err().expect("it opens nothing").to_string();
    assert!(refused.contains("none of these was given"), "{refused}");
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn who_only_seals_begins_a_key_once_in_a_process_and_opens_none() {
    let (store, pair) = (store(), Pair::generate());
    let sealer = || access(vec![pair.recipient()], Vec::new(), NEVER);
    let process = sealer();
    let first = sealing(&ring(&store, &process)).await;
    assert_eq!(sealing(&ring(&store, &process)).await, first);
    let second = sealing(&ring(&store, &sealer())).await;
    assert_ne!(first, second);
    let refused = ring(&store, &sealer()).get(first).await;
    assert!(matches!(refused, Err(KeyError::CannotUnwrap { .. })));

    let reader = access(Vec::new(), pair.identities(), NEVER);
    for id in [first, second] {
        let opened = ring(&store, &reader).get(id).await.expect("opened");
        assert_eq!(opened.id, id);
    }
    let nobody = access(Vec::new(), Vec::new(), NEVER);
    let refused = ring(&store, &nobody).for_sealing().await;
    assert!(matches!(refused, Err(KeyError::NoRecipient)));
}

/// Whoever can write to a store can wrap a key of their own for a public key.
#[tokio::test]
async fn nothing_is_sealed_under_a_key_that_anybody_may_have_made() {
    let (store, pair) = (store(), Pair::generate());
    let forger = access(vec![pair.recipient()], Vec::new(), NEVER);
    let forged = sealing(&ring(&store, &forger)).await;
    let honest = || access(vec![pair.recipient()], pair.identities(), NEVER);
    let ours = sealing(&ring(&store, &honest())).await;
    assert_ne!(ours, forged);
    assert_ne!(sealing(&ring(&store, &honest())).await, ours);
}

#[tokio::test]
async fn a_rotation_is_taken_up_while_sealers_are_in_use() {
    let store = store();
    let daemon = ring(&store, &both(1));
    let key = daemon.for_sealing().await.expect("a key");
    let before = key.current().id;
    assert_eq!(daemon.rotate_if_due().await.expect("looked"), None);
    let asked = ring(&store, &both(1)).rotate().await.expect("rotated");
    assert_eq!(daemon.rotate_if_due().await.expect("looked"), Some(asked));
    assert_eq!(key.current().id, asked);
    assert_ne!(asked, before);
    assert_eq!(daemon.rotate_if_due().await.expect("looked"), None);
    assert_eq!(sealing(&ring(&store, &both(1))).await, asked);

    // Who cannot use the key that was made makes one of its own, once.
    let pair = Pair::generate();
    let writer = ring(&store, &access(vec![pair.recipient()], Vec::new(), NEVER));
    let own = sealing(&writer).await;
    assert_eq!(writer.rotate_if_due().await.expect("looked"), None);
    let _ = ring(&store, &both(1)).rotate().await.expect("rotated");
    let next = writer.rotate_if_due().await.expect("looked");
    assert!(next.is_some_and(|next| next != own && next != asked));
    assert_eq!(writer.rotate_if_due().await.expect("looked"), None);
}

#[tokio::test]
async fn a_key_ends_with_its_time_its_bytes_and_its_recipients() {
    let store = store();
    let file = key_file(1);
    let with = |rotation, more: Vec<Recipient>| {
        let mut recipients = vec![Recipient::KeyFile(file.clone())];
        recipients.extend(more);
        access(recipients, vec![Identity::KeyFile(file.clone())], rotation)
    };
    let first = sealing(&ring(&store, &with(NEVER, Vec::new()))).await;

    let full = RotationPolicy {
        after_bytes: 1000,
        ..NEVER
    };
    let daemon = ring(&store, &with(full, Vec::new()));
    let key = daemon.for_sealing().await.expect("a key");
    assert_eq!(key.current().id, first);
    key.count_since(|_| 900);
    key.count_since(|_| 900);
    assert_eq!(daemon.rotate_if_due().await.expect("looked"), None);
    key.count(100);
    let second = daemon.rotate_if_due().await.expect("looked");
    assert!(second.is_some());
    assert_eq!(key.sealed(), 0);

    let pair = Pair::generate();
    let third = sealing(&ring(&store, &with(NEVER, vec![pair.recipient()]))).await;
    assert!(Some(third) != second);
    let reader = access(Vec::new(), pair.identities(), NEVER);
    assert!(ring(&store, &reader).get(third).await.is_ok());
    assert!(ring(&store, &reader).get(first).await.is_err());

    tokio::time::sleep(Duration::from_millis(1100)).await;
    let old = RotationPolicy {
        after: Duration::from_secs(1),
        ..NEVER
    };
    let fourth = sealing(&ring(&store, &with(old, Vec::new()))).await;
    assert_ne!(fourth, third);
}

#[tokio::test]
async fn a_record_that_was_altered_does_not_open() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    let name = epochs::name(id, 1);
    let original = store.get(&name, None).await.expect("the record");
    let mut record = KeyRecord::read(id, &original).expect("it reads");
    let mut tampered = Vec::new();
    record.check = Some(
        record
            .check
            .expect("a check")
            .replace(['A', 'B', 'C', 'D'], "E"),
    );
    tampered.push(serde_json::to_vec(&record).expect("JSON"));
    tampered.push(
        String::from_utf8_lossy(&original)
            .replacen(": 2", ": 9", 1)
            .into_bytes(),
    );
    tampered.push(original[..original.len() / 2].to_vec());
    for (bytes, reason) in
        tampered
            .into_iter()
            .zip(["known to be sealed", "newer release", "not readable"])
    {
        store.delete(&name).await.expect("deleted");
        store
            .put(&name, Body::new(bytes.into()))
            .await
            .expect("put");
        let refused = ring(&store, &both(1)).get(id).await.err().expect("refused");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

/// Whoever can write to a store can put a generation of any data key.
#[tokio::test]
async fn a_generation_that_opens_for_nobody_hides_no_earlier_one() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    let original = store.get(&epochs::name(id, 1), None).await;
    let mut record = KeyRecord::read(id, &original.expect("the record")).expect("it reads");
    record.recipients.clear();
    let nobodys = serde_json::to_vec(&record).expect("JSON");
    for (generation, bytes) in [(2, nobodys), (3, b"nonsense".to_vec())] {
        let body = Body::new(bytes.into());
        store
            .put(&epochs::name(id, generation), body)
            .await
            .expect("put");
        let opened = ring(&store, &both(1)).get(id).await;
        assert_eq!(opened.expect("generation 1 opens").id, id);
    }
    let refused = ring(&store, &both(2)).get(id).await.err();
    assert!(matches!(refused, Some(KeyError::CannotUnwrap { .. })));
}

/// Whoever can write to a store can wrap a key of their own by a KMS key of their own.
#[tokio::test]
async fn kms_is_asked_for_a_key_to_seal_under_only_by_the_keys_that_are_configured() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    let original = store.get(&epochs::name(id, 1), None).await;
    let mut record = KeyRecord::read(id, &original.expect("the record")).expect("it reads");
    record.recipients = vec![crate::keys::wrap::WrappedKey::AwsKms {
        key: "arn:aws:kms:xx-nowhere-9:111111111111:key/theirs".to_owned(),
        wrapped: "Z2FyYmFnZQ==".to_owned(),
    }];
    let access = access(
        vec![Recipient::KeyFile(key_file(1))],
        vec![Identity::Kms, Identity::KeyFile(key_file(1))],
        NEVER,
    );
    let refused = access.unwrap(&ARCHIVE, id, &record, true).await.err();
    assert!(matches!(refused, Some(KeyError::CannotUnwrap { .. })));
}
