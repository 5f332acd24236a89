//! Every store against one contract, and S3 against a real server.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use common::conformance::conforms;
use tempfile::TempDir;
use walvault_harness::{Garage, Moto, Outcome, needs_servers};
use walvault_store::S3Settings;
use walvault_store::{
    Body, DirectoryStore, MemoryStore, ObjectStore, RetryPolicy, Retrying, S3Store, SharedStore,
    StoreError, list_all,
};

#[tokio::test]
async fn memory_conforms() {
    conforms(&MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_conforms() {
    let root = TempDir::new().unwrap();
    conforms(&DirectoryStore::open(root.path()).unwrap()).await;
}

#[tokio::test]
async fn retrying_conforms() {
    let memory = Arc::new(MemoryStore::new());
    conforms(&Retrying::new(memory, RetryPolicy::default())).await;
}

/// Authorities are exchanged by rewriting their file, while the process runs.
#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn certificates_that_are_rewritten_are_read_again() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["ours", "theirs"] {
        certificate(folder.path(), name);
    }
    let moto = Moto::start_over_tls(&path("ours.crt"), &path("ours.key"));
    std::fs::copy(path("theirs.crt"), path("ca.pem")).unwrap();
    let settings = S3Settings {
        endpoint: Some(moto.endpoint()),
        region: Some(Moto::REGION.to_owned()),
        path_style: true,
        ca_file: Some(path("ca.pem")),
        ..S3Settings::default()
    };
    let any = credentials("AKIA", "secret");
    let store = S3Store::open_with(Moto::BUCKET, "prefix", &settings, any);
    let store = store.await.unwrap();
    let refused = list_all(&store, "").await.unwrap_err();
    assert!(refused.to_string().contains("ca_file"), "{refused}");
    // One that cannot be used changes nothing.
    std::fs::write(path("ca.pem"), "no certificate").unwrap();
    assert!(list_all(&store, "").await.is_err());
    std::fs::copy(path("ours.crt"), path("ca.pem")).unwrap();
    assert_eq!(list_all(&store, "").await.unwrap(), []);
    std::fs::write(path("ca.pem"), "no certificate").unwrap();
    assert_eq!(list_all(&store, "").await.unwrap(), []);
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(folder: &Path, name: &str) {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        ])
        .arg(format!("/CN={name}"))
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")));
    let _ = Outcome::of(openssl).succeeded();
}

/// One server for all: starting it takes longer than any of these.
#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn s3_against_garage() {
    let server = Garage::start_new();
    let garage = &server;
    for prefix in ["", "prod/db-1"] {
        conforms(&*open(garage, prefix).await).await;
    }
    prefixes_keep_archives_apart(garage).await;
    pages_follow_one_another(garage).await;
    garage_does_not_enforce_conditional_puts(garage).await;
    an_altered_body_is_refused(garage).await;
    mistakes_are_refused_with_what_to_do(garage).await;
    nothing_is_written_unseen(garage).await;
    an_outage_is_not_absence(server).await;
}

async fn prefixes_keep_archives_apart(garage: &Garage) {
    let (one, two) = (open(garage, "one").await, open(garage, "one-more").await);
    one.put("a", body("1")).await.unwrap();
    two.put("a", body("2")).await.unwrap();
    assert_eq!(one.get("a", None).await.unwrap(), "1");
    assert_eq!(keys(&*one).await, ["a", "probe/conditional"]);
    assert_eq!(one.url(), "s3://archive/one");
    one.delete("a").await.unwrap();
    assert_eq!(two.get("a", None).await.unwrap(), "2");
    two.delete("a").await.unwrap();
}

async fn pages_follow_one_another(garage: &Garage) {
    let store = open(garage, "pages").await;
    store.ignores_conditions().await.unwrap();
    let names: Vec<String> = (0..1005)
        .map(|number| format!("tail/{number:06}"))
        .collect();
    for some in names.chunks(50) {
        let puts = some.iter().map(|name| store.put(name, body("x")));
        futures_util::future::try_join_all(puts).await.unwrap();
    }
    let first = store.list("tail/", None).await.unwrap();
    assert_eq!(first.objects.len(), 1000);
    assert_eq!(first.next.as_deref(), Some("tail/000999"));
    let all = list_all(&*store, "tail/").await.unwrap();
    let all: Vec<String> = all.into_iter().map(|object| object.key).collect();
    assert_eq!(all, names);
}

/// Documented behaviour of Garage 2; should it change, walvault notices by itself and this test
/// tells us to say so.
async fn garage_does_not_enforce_conditional_puts(garage: &Garage) {
    let store = open(garage, "conditional").await;
    for _ in 0..2 {
        assert!(store.ignores_conditions().await.unwrap());
    }
    assert_eq!(keys(&*store).await, ["probe/conditional"]);
}

async fn an_altered_body_is_refused(garage: &Garage) {
    let store = open(garage, "altered").await;
    let altered = Body {
        sha256: [7; 32],
        ..body("as it was sealed")
    };
    let error = store.put("a", altered).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(
        error.to_string().contains("check this machine's memory"),
        "{error}"
    );
    assert_eq!(store.head("a").await.unwrap(), None);
}

async fn mistakes_are_refused_with_what_to_do(garage: &Garage) {
    let settings = settings(garage);
    let wrong_region = S3Settings {
        region: Some("eu-central-1".to_owned()),
        ..settings.clone()
    };
    let key = || owner(garage);
    let (id, secret) = garage.key();
    let unknown_key = credentials("GK000000000000000000000000", secret);
    let wrong_secret = credentials(id, &"0".repeat(64));
    for (bucket, settings, credentials, remedy) in [
        ("none", &settings, key(), "create the bucket 'none'"),
        (
            Garage::BUCKET,
            &wrong_region,
            key(),
            "set archive.s3.region",
        ),
        (
            Garage::BUCKET,
            &settings,
            unknown_key,
            "check the credentials",
        ),
        (
            Garage::BUCKET,
            &settings,
            wrong_secret,
            "check the credentials",
        ),
    ] {
        let store = S3Store::open_with(bucket, "", settings, credentials)
            .await
            .unwrap();
        let refused = [
            store.put("a", body("x")).await.unwrap_err(),
            store.get("a", None).await.unwrap_err(),
            store.head("a").await.unwrap_err(),
            store.list("", None).await.unwrap_err(),
            store.delete("a").await.unwrap_err(),
        ];
        println!("{}", refused[1]);
        for error in refused {
            assert!(matches!(error, StoreError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }
}

/// Garage knows no right to list without reading. So whoever may only write cannot look first, and
/// must not write unseen.
async fn nothing_is_written_unseen(garage: &Garage) {
    let (id, secret) = garage.create_key(&["--write"]);
    let writer = credentials(&id, &secret);
    let store = S3Store::open_with(Garage::BUCKET, "writer", &settings(garage), writer)
        .await
        .unwrap();
    let error = store.get("a", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let error = store.put("a", body("x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let owner = open(garage, "writer").await;
    assert_eq!(owner.head("a").await.unwrap(), None);
}

async fn an_outage_is_not_absence(garage: Garage) {
    let store = open(&garage, "outage").await;
    store.put("a", body("x")).await.unwrap();
    drop(garage);
    for error in [
        store.get("a", None).await.unwrap_err(),
        store.get("missing", None).await.unwrap_err(),
        store.head("missing").await.unwrap_err(),
        store.list("", None).await.unwrap_err(),
        store.put("b", body("x")).await.unwrap_err(),
        store.delete("a").await.unwrap_err(),
    ] {
        assert!(error.is_transient(), "{error}");
    }
}

/// Prints what an upload costs this process; run it alone, with `--nocapture`. Hashing the body
/// twice would show.
#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn the_cost_of_uploads_to_garage() {
    const SIZE: usize = 16 << 20;
    const COUNT: usize = 16;
    let garage = Garage::start_new();
    let store = open(&garage, "cost").await;
    store.ignores_conditions().await.unwrap();
    let bytes: Bytes = (0..SIZE as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();

    let hashing = Instant::now();
    let body = Body::new(bytes);
    let hashing = hashing.elapsed();
    let (begun, used) = (Instant::now(), cpu_seconds(std::process::id()));
    let server = cpu_seconds(garage.pid());
    for number in 0..COUNT {
        store.put(&format!("{number}"), body.clone()).await.unwrap();
    }
    let mib = ((SIZE * COUNT) >> 20) as f64;
    println!(
        "{:.0} MiB/s one at a time; {:.2} CPU s/GiB here, {:.2} in Garage; hashing once is {:.2} s/GiB",
        mib / begun.elapsed().as_secs_f64(),
        (cpu_seconds(std::process::id()) - used) / mib * 1024.0,
        (cpu_seconds(garage.pid()) - server) / mib * 1024.0,
        hashing.as_secs_f64() * 64.0,
    );
    let begun = Instant::now();
    let read = store.get("0", None).await.unwrap();
    println!("read: {:.0} MiB/s", 16.0 / begun.elapsed().as_secs_f64());
    assert!(read == body.bytes);
}

/// User and system time of a process, from `/proc/<pid>/stat` in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let ticks = after_name.split(' ').skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
        .sum()
}

fn body(text: &'static str) -> Body {
    Body::new(Bytes::from_static(text.as_bytes()))
}

async fn keys(store: &dyn ObjectStore) -> Vec<String> {
    let objects = list_all(store, "").await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

fn credentials(id: &str, secret: &str) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new(id, secret, None, None, "test"))
}

fn settings(garage: &Garage) -> S3Settings {
    S3Settings {
        endpoint: Some(garage.endpoint()),
        region: Some(Garage::REGION.to_owned()),
        path_style: true,
        ..S3Settings::default()
    }
}

fn owner(garage: &Garage) -> SharedCredentialsProvider {
    let (id, secret) = garage.key();
    credentials(id, secret)
}

async fn open(garage: &Garage, prefix: &str) -> SharedStore {
    let settings = settings(garage);
    let store = S3Store::open_with(Garage::BUCKET, prefix, &settings, owner(garage));
    Arc::new(store.await.unwrap())
}
