//! The test vectors of `docs/format.md`, which anybody who writes a reader of archives relies on.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use walvault_layout::KeyId;

use crate::format::{HEADER_LEN, Header};
use crate::keys::{
    DataKey, Identity, KeyAccess, PublicKey, Recipient, RotationPolicy, Secret, SignedKey,
};
use crate::seal::Sealed;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let document = std::fs::read_to_string(path).expect("docs/format.md");
    let (_, section) = document.split_once("## Test vectors\n").expect("vectors");
    let block = section
        .split_once("```json\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    serde_json::from_str(block.expect("a block").0).expect("JSON")
}

fn text<'a>(vectors: &'a Value, name: &str) -> &'a str {
    vectors[name].as_str().expect(name)
}

fn bytes<const N: usize>(vectors: &Value, name: &str) -> [u8; N] {
    let decoded = hex::decode(text(vectors, name)).expect(name);
    decoded.try_into().expect(name)
}

/// The identity that a file with `text` holds.
fn identities(text: &str) -> Vec<Identity> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("identity");
    std::fs::write(&path, text).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, private).expect("chmod");
    Identity::read(&path).expect("an identity")
}

#[tokio::test]
async fn the_documented_data_key_opens_for_each_recipient() {
    let vectors = vectors();
    let archive = bytes(&vectors, "archive_id");
    let id = KeyId(bytes(&vectors, "key_id"));
    let key = zeroize::Zeroizing::new(bytes::<32>(&vectors, "data_key"));
    let json = serde_json::to_vec(&vectors["key_record"]).expect("JSON");
    let signed = SignedKey::read(&archive, id, 1, &json).expect("a record");
    let writer = PublicKey::parse(text(&vectors, "key_file_writer"));
    assert_eq!(signed.writers, [writer.expect("a public key")]);
    let record = signed.record;
    let named = Recipient::parse(text(&vectors, "age_recipient")).expect("a recipient");
    assert!(record.recipient_names().contains(&named.name()));
    for identity in ["key_file", "age_identity"] {
        let rotation = RotationPolicy {
            after: std::time::Duration::ZERO,
            after_bytes: 0,
        };
        let identities = identities(text(&vectors, identity));
        if let Identity::KeyFile(file) = &identities[0] {
            assert_eq!(file.fingerprint(), text(&vectors, "key_file_fingerprint"));
            let secret: [u8; 32] = bytes(&vectors, "key_file_secret");
            assert_eq!(*file.secret().expose(), secret);
            assert_eq!(signed.writers, [file.writer().public()]);
        }
        let access = KeyAccess::new(Vec::new(), identities, Default::default(), rotation);
        let opened = access.unwrap_for_test(&archive, id, &record).await;
        let opened = opened.unwrap_or_else(|error| panic!("{identity}: {error}"));
        assert_eq!(opened.secret().expose(), &*key);
        assert!(record.commits_to(&archive, &opened));
    }
}

#[test]
fn the_documented_object_opens() {
    let vectors = vectors();
    let archive = bytes(&vectors, "archive_id");
    let secret = zeroize::Zeroizing::new(bytes(&vectors, "data_key"));
    let key = DataKey::new(
        KeyId(bytes(&vectors, "key_id")),
        Secret::from_bytes(&secret),
    );
    let object = hex::decode(text(&vectors, "object")).expect("hexadecimal");
    let header = Header::decode(&object[..HEADER_LEN]).expect("a header");
    let derived = key.object_key(&archive, &header.salt);
    assert_eq!(*derived.expose(), bytes::<32>(&vectors, "object_key"));
    let name = text(&vectors, "object_name");
    let opened = Sealed::parse(object.into())
        .and_then(|sealed| sealed.open(&Arc::new(key), &archive, header.kind, name))
        .expect("opened");
    assert_eq!(opened.payload, text(&vectors, "payload").as_bytes());
}
