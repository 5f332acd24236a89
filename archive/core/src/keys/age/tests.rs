use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;

const ARCHIVE: [u8; 16] = *b"an archive of us";
const ID: KeyId = KeyId(*b"one of its keys!");

fn secret() -> Secret {
    Secret::from_bytes(&Zeroizing::new([0x5A; 32]))
}

fn identities(path: &Path) -> Result<Vec<AgeIdentity>, KeyFileError> {
    AgeIdentity::parse(path, &fs::read_to_string(path).expect("the file"))
}

/// An ssh key pair made by ssh-keygen; the path of the private one.
fn ssh_key(folder: &Path, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = folder.join(kind.join("-"));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", passphrase, "-C", "a comment", "-t"])
        .args(kind)
        .arg("-f")
        .arg(&path)
        .status();
    assert!(made.expect("ssh-keygen runs").success());
    path
}

fn opens(recipient: &AgeRecipient, identity: &AgeIdentity) {
    let file = recipient.wrap(&ARCHIVE, ID, &secret()).expect("wrapped");
    assert!(identity.is_for(recipient.name()), "{}", recipient.name());
    let opened = identity.unwrap(&ARCHIVE, ID, &file).expect("opened");
    assert_eq!(opened.expose(), secret().expose());
    assert!(identity.unwrap(&ARCHIVE, KeyId([0; 16]), &file).is_none());
    assert!(identity.unwrap(&[0; 16], ID, &file).is_none());
    for at in (0..file.len()).step_by(7).chain([file.len() - 1]) {
        let mut altered = file.clone();
        altered[at] ^= 1;
        assert!(identity.unwrap(&ARCHIVE, ID, &altered).is_none(), "{at}");
    }
    assert!(
        identity
            .unwrap(&ARCHIVE, ID, &file[..file.len() - 1])
            .is_none()
    );
}

#[test]
fn a_generated_identity_opens_what_its_public_key_wrapped() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("identity");
    let public = AgeIdentity::generate(&path).expect("an identity");
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let recipient = AgeRecipient::parse(&public).expect("a recipient");
    opens(&recipient, &identities(&path).expect("identities")[0]);
    assert!(AgeIdentity::generate(&path).is_err(), "it is there");

    let other = folder.path().join("other");
    let _ = AgeIdentity::generate(&other).expect("an identity");
    let other = &identities(&other).expect("identities")[0];
    assert!(!other.is_for(recipient.name()));
    let file = recipient.wrap(&ARCHIVE, ID, &secret()).expect("wrapped");
    assert!(other.unwrap(&ARCHIVE, ID, &file).is_none());
}

#[test]
fn ssh_keys_open_what_their_public_keys_wrapped() {
    let folder = tempfile::tempdir().expect("a directory");
    for kind in [&["ed25519"][..], &["rsa", "-b", "2048"]] {
        let path = ssh_key(folder.path(), kind, "");
        let public = fs::read_to_string(path.with_file_name(format!("{}.pub", kind.join("-"))));
        let recipient = AgeRecipient::parse(public.expect("a public key").trim()).expect("one");
        opens(&recipient, &identities(&path).expect("an identity")[0]);

        let listed = Command::new("ssh-keygen").arg("-lf").arg(&path).output();
        let listed = String::from_utf8(listed.expect("ssh-keygen runs").stdout).expect("UTF-8");
        let fingerprint = listed.split(' ').nth(1).expect("a fingerprint");
        assert_eq!(recipient.name(), format!("ssh-{}:{fingerprint}", kind[0]));
    }
}

#[test]
fn what_nobody_could_use_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a directory");
    let locked = ssh_key(folder.path(), &["ed25519"], "a passphrase");
    let refused = identities(&locked).err().expect("refused").to_string();
    assert!(refused.contains("passphrase"), "{refused}");
    let small = ssh_key(folder.path(), &["rsa", "-b", "1024"], "");
    let public = fs::read_to_string(small.with_file_name("rsa--b-1024.pub")).expect("a key");
    let refused = AgeRecipient::parse(&public).expect_err("weak");
    assert!(refused.contains("2048"), "{refused}");

    for bad in [
        "age1qqqq",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAA",
        "age1se1x",
    ] {
        assert!(AgeRecipient::parse(bad).is_err(), "{bad}");
    }
    let path = folder.path().join("identities");
    for (text, reason) in [
        ("# nothing\n", "no identity"),
        ("AGE-SECRET-KEY-1QQQ\n", "line 1"),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            "ssh private key",
        ),
    ] {
        let refused = AgeIdentity::parse(&path, text).err().expect("refused");
        let refused = refused.to_string();
        assert!(
            refused.contains(reason) && !refused.contains("QQQ"),
            "{refused}"
        );
    }
}
