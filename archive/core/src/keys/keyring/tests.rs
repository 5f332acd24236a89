use std::time::Duration;

use tempfile::TempDir;
use walvault_layout::KEYS_PREFIX;
use walvault_store::list_all;
use walvault_store::memory::MemoryStore;

use super::*;
use crate::keys::wrap::WrappedKey;
use crate::keys::{AgeIdentity, Identity, KeyFile, RotationPolicy, Secret, SigningKey, Trust};

const ARCHIVE: [u8; 16] = *b"an archive of us";
const NEVER: RotationPolicy = RotationPolicy {
    after: Duration::ZERO,
    after_bytes: 0,
};

fn store() -> SharedStore {
    Arc::new(MemoryStore::new())
}

fn secret(byte: u8) -> Secret {
    Secret::from_bytes(&zeroize::Zeroizing::new([byte; 32]))
}

fn key_file(byte: u8) -> Arc<KeyFile> {
    Arc::new(KeyFile::from_secret(secret(byte)))
}

/// The writer whom everybody here trusts.
fn honest() -> Trust {
    Trust {
        signing_key: Some(SigningKey::from_seed(&secret(0xED))),
        writers: Vec::new(),
    }
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
    KeyAccess::trusting(recipients, identities, rotation, honest())
}

/// Whoever has the public key, and a writer's key of their own.
fn forger(pair: &Pair) -> KeyAccess {
    let trust = Trust {
        signing_key: Some(SigningKey::ephemeral().expect("random bits")),
        writers: Vec::new(),
    };
    KeyAccess::trusting(vec![pair.recipient()], Vec::new(), NEVER, trust)
}

async fn plant(store: &SharedStore, id: KeyId, generation: u32, bytes: Vec<u8>) {
    let name = epochs::name(id, generation);
    let body = Body::new(bytes.into());
    store.put(&name, body).await.expect("planted");
}

async fn stored(store: &SharedStore, id: KeyId, generation: u32) -> Vec<u8> {
    let read = store.get(&epochs::name(id, generation), None).await;
    read.expect("the record").to_vec()
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
async fn nothing_is_sealed_or_opened_under_a_key_that_no_trusted_writer_signed() {
    let (store, pair) = (store(), Pair::generate());
    let forged = sealing(&ring(&store, &forger(&pair))).await;
    let host = || access(vec![pair.recipient()], pair.identities(), NEVER);
    // It may be the wrong configuration: nothing is begun beside what nobody here knows.
    let refused = ring(&store, &host()).for_sealing().await.err();
    assert!(matches!(refused, Some(KeyError::Foreign { id, .. }) if id == forged));
    let sealer = access(vec![pair.recipient()], Vec::new(), NEVER);
    let ours = sealing(&ring(&store, &sealer)).await;
    assert_ne!(ours, forged);
    // What only a private key opens serves again, since its writer is known.
    assert_eq!(sealing(&ring(&store, &host())).await, ours);
    let reader = access(Vec::new(), pair.identities(), NEVER);
    assert!(ring(&store, &reader).get(ours).await.is_ok());
    let refused = ring(&store, &reader).get(forged).await.err();
    assert!(matches!(refused, Some(KeyError::Foreign { .. })));

    // Until a person names its writer.
    let epochs = ring(&store, &reader).epochs().await.expect("listed");
    let foreign: Vec<_> = epochs.iter().map(KeyEpoch::is_foreign).collect();
    assert_eq!(foreign, [true, false]);
    let named = Trust {
        writers: epochs[0].writers.clone(),
        ..honest()
    };
    let reader = KeyAccess::trusting(Vec::new(), pair.identities(), NEVER, named);
    assert!(ring(&store, &reader).get(forged).await.is_ok());
}

/// Who holds a key file signs in its name, and nothing need be configured.
#[tokio::test]
async fn a_key_file_is_a_writer() {
    let store = store();
    let alone = |byte| KeyAccess::from(vec![KeyFile::from_secret(secret(byte))]);
    let first = sealing(&ring(&store, &alone(1))).await;
    assert_eq!(sealing(&ring(&store, &alone(1))).await, first);
    let wrong = ring(&store, &alone(2)).for_sealing().await.err();
    assert!(matches!(wrong, Some(KeyError::Foreign { .. })));
    assert_eq!(count(&store).await, 1);
    // Of two that it is wrapped for, each knows it.
    let both = |bytes: [u8; 2]| {
        let files = bytes.map(|byte| KeyFile::from_secret(secret(byte)));
        KeyAccess::from(Vec::from(files))
    };
    let shared = sealing(&ring(&store, &both([1, 2]))).await;
    for byte in [1, 2] {
        assert!(ring(&store, &alone(byte)).get(shared).await.is_ok());
    }
    // Who has public keys alone, and nothing to sign with, seals nothing that nobody would believe.
    let pair = Pair::generate();
    let trust = Trust::default();
    let nobody = KeyAccess::trusting(vec![pair.recipient()], Vec::new(), NEVER, trust);
    let refused = ring(&store, &nobody).for_sealing().await.err();
    assert!(matches!(refused, Some(KeyError::NoWriter)));
}

/// An older data key, which a removed recipient may have kept, does not come back.
#[tokio::test]
async fn no_altered_or_copied_record_makes_a_data_key_the_newest() {
    let store = store();
    let old = sealing(&ring(&store, &both(1))).await;
    let new = ring(&store, &both(1)).rotate().await.expect("rotated");
    let daemon = ring(&store, &both(1));
    assert_eq!(sealing(&daemon).await, new);
    let record = String::from_utf8(stored(&store, old, 1).await).expect("JSON");
    let year =
        |record: &str| record.replace("\\\"created_at\\\":\\\"20", "\\\"created_at\\\":\\\"99");
    assert_ne!(year(&record), record, "{record}");
    plant(&store, old, 2, year(&record).into_bytes()).await;
    plant(&store, old, 3, record.clone().into_bytes()).await;
    // Under a name of its own, and of one that is rotated to.
    let other = KeyId([7; 16]);
    plant(
        &store,
        other,
        1,
        record
            .replace(&old.to_string(), &other.to_string())
            .into_bytes(),
    )
    .await;
    plant(&store, new, 2, record.into_bytes()).await;
    assert_eq!(daemon.rotate_if_due().await.expect("looked"), None);
    assert_eq!(sealing(&ring(&store, &both(1))).await, new);
    for id in [old, new] {
        let opened = ring(&store, &both(1)).get(id).await;
        assert_eq!(opened.expect("generation 1 opens").id, id);
    }
}

/// A record is bound to the archive that it was signed for.
#[tokio::test]
async fn a_record_of_another_archive_is_nobodys() {
    let store = store();
    let elsewhere = Keyring::new([9; 16], store.clone(), both(1));
    let id = sealing(&elsewhere).await;
    let refused = ring(&store, &both(1)).get(id).await.err();
    assert!(
        matches!(refused, Some(KeyError::CannotUnwrap { .. })),
        "{refused:?}"
    );
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
    let original = String::from_utf8(stored(&store, id, 1).await).expect("JSON");
    let tampered = [
        (original.replace("key-file", "key-fi1e"), "signed by nobody"),
        (
            original.replacen("\"version\": 1", "\"version\": 9", 1),
            "newer release",
        ),
        (original[..original.len() / 2].to_owned(), "not readable"),
    ];
    for (text, reason) in tampered {
        assert_ne!(text, original);
        store.delete(&epochs::name(id, 1)).await.expect("deleted");
        plant(&store, id, 1, text.into_bytes()).await;
        let refused = ring(&store, &both(1)).get(id).await.err().expect("refused");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

/// Whoever can write to a store can put a generation of any data key.
#[tokio::test]
async fn a_generation_that_no_trusted_writer_signed_hides_no_earlier_one() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    let original = stored(&store, id, 1).await;
    let signed = SignedKey::read(&ARCHIVE, id, 1, &original).expect("it reads");
    let nobodys = KeyRecord {
        generation: 2,
        recipients: Vec::new(),
        ..signed.record
    };
    let stranger = SigningKey::ephemeral().expect("random bits");
    plant(&store, id, 2, nobodys.sign(&ARCHIVE, [&stranger])).await;
    plant(&store, id, 3, b"nonsense".to_vec()).await;
    let opened = ring(&store, &both(1)).get(id).await;
    assert_eq!(opened.expect("generation 1 opens").id, id);
    assert_eq!(sealing(&ring(&store, &both(1))).await, id);
    let refused = ring(&store, &both(2)).get(id).await.err();
    assert!(matches!(refused, Some(KeyError::CannotUnwrap { .. })));
}

/// However many there are: a count would let names decide.
#[tokio::test]
async fn no_number_of_planted_generations_hides_a_data_key() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    for generation in 2..1100 {
        plant(&store, id, generation, b"nonsense".to_vec()).await;
    }
    let opened = ring(&store, &both(1)).get(id).await;
    assert_eq!(opened.expect("generation 1 opens").id, id);
    assert_eq!(sealing(&ring(&store, &both(1))).await, id);
    let epochs = ring(&store, &both(1)).epochs().await.expect("listed");
    let [epoch] = &epochs[..] else {
        panic!("one data key: {epochs:?}")
    };
    assert_eq!((epoch.generation, epoch.trusted), (1, true));
}

/// Even who may sign does not give a data key another's name.
#[tokio::test]
async fn a_data_key_that_is_not_the_one_that_was_signed_does_not_open() {
    let store = store();
    let (one, two) = (
        sealing(&ring(&store, &both(1))).await,
        ring(&store, &both(1)).rotate().await.expect("rotated"),
    );
    let read = |id, bytes: Vec<u8>| {
        SignedKey::read(&ARCHIVE, id, 1, &bytes)
            .expect("it reads")
            .record
    };
    let first = read(one, stored(&store, one, 1).await);
    let second = read(two, stored(&store, two, 1).await);
    let record = KeyRecord {
        generation: 2,
        commitment: second.commitment,
        ..first
    };
    let writer = honest().signing_key.expect("a key");
    plant(&store, one, 2, record.sign(&ARCHIVE, [&writer])).await;
    let refused = ring(&store, &both(1))
        .get(one)
        .await
        .err()
        .expect("refused");
    assert!(refused.to_string().contains("not the one"), "{refused}");
}

/// Whoever can write to a store can wrap a key of their own by a KMS key of their own.
#[tokio::test]
async fn kms_is_asked_for_a_key_to_seal_under_only_by_the_keys_that_are_configured() {
    let store = store();
    let id = sealing(&ring(&store, &both(1))).await;
    let original = stored(&store, id, 1).await;
    let mut record = SignedKey::read(&ARCHIVE, id, 1, &original)
        .expect("it reads")
        .record;
    record.recipients = vec![WrappedKey::AwsKms {
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
