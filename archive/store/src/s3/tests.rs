//! Against a server that follows a script: what a real one does too seldom to test with.

use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{SharedStore, WriteOnce};

/// A server that gives the answers of a script in turn, one to a connection.
struct Script {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn begin(answers: Vec<String>) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Script { endpoint, requests }
    }

    async fn store(&self) -> SharedStore {
        Arc::new(WriteOnce::new(self.bucket().await))
    }

    async fn bucket(&self) -> S3Store {
        self.bucket_with(S3PutSettings::default()).await
    }

    async fn bucket_with(&self, put: S3PutSettings) -> S3Store {
        let settings = S3Settings {
            put,
            endpoint: Some(self.endpoint.clone()),
            region: Some("x".to_owned()),
            path_style: true,
            ..S3Settings::default()
        };
        let credentials = Credentials::new("id", "secret", None, None, "test");
        let credentials = SharedCredentialsProvider::new(credentials);
        S3Store::connect("wal", "p", &settings, Some(credentials))
            .await
            .unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// The head of a request, in lower case.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    head
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn error(status: u16, code: &str) -> String {
    answer(
        status,
        "",
        &format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

/// An answer to HEAD: nothing but a status.
fn bare(status: u16) -> String {
    answer(status, "", "")
}

/// A body that ends before its announced length.
fn cut(status: u16, headers: &str, length: usize, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn listing(key: &str) -> String {
    answer(
        200,
        "",
        &format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key>\
             <LastModified>2026-11-21T06:30:00.000Z</LastModified><Size>5</Size></Contents>\
             </ListBucketResult>"
        ),
    )
}

fn body() -> Body {
    Body::new(Bytes::from_static(b"bytes"))
}

#[tokio::test]
async fn a_put_sends_the_hash_it_was_given_and_none_of_its_own() {
    let script = Script::begin(vec![error(412, "PreconditionFailed"), bare(200)]).await;
    let store = script.store().await;
    store.put("a", body()).await.unwrap();
    assert!(!store.ignores_conditions().await.unwrap());
    let requests = script.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[0].starts_with("put /wal/p/probe/conditional?"),
        "{}",
        requests[0]
    );
    let put = &requests[1];
    let hash = BASE64.encode(body().sha256).to_lowercase();
    assert!(put.starts_with("put /wal/p/a?"), "{put}");
    assert!(
        put.contains("x-amz-content-sha256: unsigned-payload\r\n"),
        "{put}"
    );
    assert!(
        put.contains(&format!("x-amz-checksum-sha256: {hash}\r\n")),
        "{put}"
    );
    assert!(put.contains("if-none-match: *\r\n"), "{put}");
    let signed = put.split("signedheaders=").nth(1).unwrap();
    assert!(
        signed
            .split(", ")
            .next()
            .unwrap()
            .contains("x-amz-checksum-sha256"),
        "{put}"
    );
    for computed in ["trailer", "crc32", "content-encoding", "content-md5"] {
        assert!(!put.contains(computed), "{computed}: {put}");
    }
}

/// Backblaze B2 answers 400 to `x-amz-checksum-sha256`.
#[tokio::test]
async fn a_store_that_refuses_checksums_is_given_a_signed_body() {
    let script = Script::begin(vec![error(412, "PreconditionFailed"), bare(200)]).await;
    let put = S3PutSettings {
        checksum: Checksum::Signature,
        ..S3PutSettings::default()
    };
    let store = WriteOnce::new(script.bucket_with(put).await);
    store.put("a", body()).await.unwrap();
    let requests = script.requests();
    let put = requests.last().unwrap();
    assert!(!put.contains("checksum"), "{put}");
    let hash: String = body()
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(
        put.contains(&format!("x-amz-content-sha256: {hash}\r\n")),
        "{put}"
    );
}

#[tokio::test]
async fn a_store_that_enforces_conditions_is_not_asked_to_look_first() {
    let taken = || error(412, "PreconditionFailed");
    let script = Script::begin(vec![
        bare(200),
        taken(),
        taken(),
        error(409, "ConditionalRequestConflict"),
    ])
    .await;
    let store = script.store().await;
    let exists = store.put("a", body()).await.unwrap_err();
    assert!(matches!(exists, StoreError::Exists { .. }), "{exists}");
    let raced = store.put("a", body()).await.unwrap_err();
    assert!(raced.is_transient(), "{raced}");
    assert_eq!(script.requests().len(), 4);
}

#[tokio::test]
async fn a_store_without_conditions_is_not_sent_any() {
    let script = Script::begin(vec![error(501, "NotImplemented"), bare(404), bare(200)]);
    let script = script.await;
    let bucket = script.bucket().await;
    // The probe is not stored, so nothing shows yet that the bucket is there.
    bucket.bucket_seen.store(true, Ordering::Relaxed);
    let store: SharedStore = Arc::new(WriteOnce::new(bucket));
    assert!(store.ignores_conditions().await.unwrap());
    store.put("a", body()).await.unwrap();
    let requests = script.requests();
    assert!(requests[1].starts_with("head /wal/p/a"), "{}", requests[1]);
    assert!(!requests[2].contains("if-none-match"), "{}", requests[2]);
}

#[tokio::test]
async fn where_head_is_denied_a_listing_tells_whether_an_object_is_there() {
    let script = Script::begin(vec![
        bare(200),
        bare(200),
        bare(403),
        listing("p/a"),
        bare(403),
        listing("p/another"),
        bare(200),
    ])
    .await;
    let store = script.store().await;
    let exists = store.put("a", body()).await.unwrap_err();
    assert!(matches!(exists, StoreError::Exists { .. }), "{exists}");
    store.put("a", body()).await.unwrap();
    assert_eq!(script.requests().len(), 7);
}

fn batch(deleted: &[&str], failed: &[(&str, &str)]) -> String {
    let deleted = deleted
        .iter()
        .map(|key| format!("<Deleted><Key>p/{key}</Key></Deleted>"));
    let failed = failed.iter().map(|(key, code)| {
        format!("<Error><Key>p/{key}</Key><Code>{code}</Code><Message>no</Message></Error>")
    });
    let entries: String = deleted.chain(failed).collect();
    answer(200, "", &format!("<DeleteResult>{entries}</DeleteResult>"))
}

fn names(keys: &[&str]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn objects_are_removed_together_and_those_that_were_not_alone() {
    let script = Script::begin(vec![
        batch(&["a", "b"], &[("c", "NoSuchKey"), ("d", "InternalError")]),
        bare(204),
        error(403, "AccessDenied"),
    ])
    .await;
    let store = script.store().await;
    // Of `e` nothing is said.
    let keys = names(&["a", "b", "c", "d", "e"]);
    let failed = store.delete_many(&keys).await.unwrap_err();
    assert!(matches!(failed, StoreError::Refused { .. }), "{failed}");
    let requests = script.requests();
    assert!(
        requests[0].starts_with("post /wal/p?delete")
            || requests[0].starts_with("post /wal/?delete"),
        "{}",
        requests[0]
    );
    let mut singly: Vec<&str> = requests[1..]
        .iter()
        .map(|request| request.split_once('?').unwrap().0)
        .collect();
    singly.sort_unstable();
    assert_eq!(singly, ["delete /wal/p/d", "delete /wal/p/e"]);
}

#[tokio::test]
async fn a_store_without_batches_is_asked_for_one_once() {
    for refusal in [
        error(501, "NotImplemented"),
        error(400, "MalformedXML"),
        error(400, "MissingContentMD5"),
        bare(405),
    ] {
        let gone = || bare(204);
        let script = Script::begin(vec![refusal, gone(), gone(), gone(), gone()]).await;
        let store = script.store().await;
        for _ in 0..2 {
            store.delete_many(&names(&["a", "b"])).await.unwrap();
        }
        let requests = script.requests();
        let posts = requests.iter().filter(|one| one.starts_with("post"));
        assert_eq!((posts.count(), requests.len()), (1, 5));
    }
}

#[tokio::test]
async fn a_batch_that_is_denied_says_nothing_of_the_next() {
    let script = Script::begin(vec![
        error(403, "AccessDenied"),
        bare(204),
        bare(204),
        batch(&["c", "d"], &[]),
    ])
    .await;
    let store = script.store().await;
    store.delete_many(&names(&["a", "b"])).await.unwrap();
    store.delete_many(&names(&["c", "d"])).await.unwrap();
    assert_eq!(script.requests().len(), 4);
}

#[tokio::test]
async fn a_head_that_finds_nothing_does_not_hide_a_missing_bucket() {
    let script = Script::begin(vec![bare(404), error(404, "NoSuchBucket")]).await;
    let missing = script.store().await.head("a").await.unwrap_err();
    assert!(
        missing.to_string().contains("create the bucket 'wal'"),
        "{missing}"
    );

    let script = Script::begin(vec![answer(404, "", "<html>not here</html>")]).await;
    let error = script.store().await.get("a", None).await.unwrap_err();
    assert!(!matches!(error, StoreError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_get_goes_on_where_it_broke_off() {
    let script = Script::begin(vec![
        cut(200, "etag: \"v1\"\r\n", 10, "0123"),
        cut(206, "content-range: bytes 4-9/10\r\n", 6, "45"),
        answer(206, "content-range: bytes 6-9/10\r\n", "6789"),
    ])
    .await;
    assert_eq!(
        script.store().await.get("a", None).await.unwrap(),
        "0123456789"
    );
    let requests = script.requests();
    assert!(!requests[0].contains("\r\nrange:"), "{}", requests[0]);
    assert!(
        requests[1].contains("\r\nrange: bytes=4-9\r\n"),
        "{}",
        requests[1]
    );
    assert!(requests[1].contains("if-match: \"v1\""), "{}", requests[1]);
    assert!(
        requests[2].contains("\r\nrange: bytes=6-9\r\n"),
        "{}",
        requests[2]
    );

    let script = Script::begin(vec![
        cut(206, "content-range: bytes 5-9/10\r\n", 5, "56"),
        answer(206, "content-range: bytes 7-9/10\r\n", "789"),
    ])
    .await;
    let bytes = script.store().await.get("a", Some(5..100)).await.unwrap();
    assert_eq!(bytes, "56789");
    assert!(script.requests()[1].contains("\r\nrange: bytes=7-9\r\n"));
}

#[tokio::test]
async fn a_get_that_keeps_breaking_off_is_given_up() {
    let mut answers = vec![cut(200, "", 10, "0")];
    for at in 1..=4 {
        let range = format!("content-range: bytes {at}-9/10\r\n");
        answers.push(cut(206, &range, 10 - at, "x"));
    }
    let script = Script::begin(answers).await;
    let error = script.store().await.get("a", None).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("5 of 10 bytes came"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_not_the_range_asked_for_is_not_taken_for_it() {
    for answer in [
        answer(200, "", "0123456789"),
        answer(206, "content-range: bytes 0-4/10\r\n", "01234"),
        answer(206, "content-range: bytes 5-9999/10000\r\n", "56789"),
    ] {
        let script = Script::begin(vec![answer]).await;
        let error = script
            .store()
            .await
            .get("a", Some(5..10))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("honour Range"), "{error}");
    }
}

/// A page of a listing that is not the last.
fn page(keys: &[&str]) -> String {
    let mut contents = String::new();
    for key in keys {
        contents += &format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-21T06:30:00.000Z</LastModified>\
             <Size>5</Size></Contents>"
        );
    }
    let body =
        format!("<ListBucketResult><IsTruncated>true</IsTruncated>{contents}</ListBucketResult>");
    answer(200, "", &body)
}

#[tokio::test]
async fn a_listing_that_does_not_get_on_is_an_error_and_no_endless_loop() {
    let endless = [
        vec![page(&["p/a", "p/b"]), page(&["p/a", "p/b"])],
        vec![page(&["p/a", "p/b"]), page(&["p/b"])],
        vec![page(&["p/a"]), page(&[])],
    ];
    for answers in endless {
        let pages = answers.len();
        let script = Script::begin(answers).await;
        let store = script.bucket().await;
        let error = crate::list_all(&store, "").await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(script.requests().len(), pages, "{error}");
    }
}

#[tokio::test]
async fn listings_of_versions_and_uploads_have_to_get_on_as_well() {
    let versions = || {
        let body = "<ListVersionsResult><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>p/a</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker>\
             </ListVersionsResult>";
        answer(200, "", body)
    };
    let script = Script::begin(vec![versions(), versions()]).await;
    let store: SharedStore = Arc::new(script.bucket().await);
    let error = store.remains("a").await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    let uploads = || {
        let body = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>p/a</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>\
             </ListMultipartUploadsResult>";
        answer(200, "", body)
    };
    let script = Script::begin(vec![uploads(), uploads()]).await;
    let store: SharedStore = Arc::new(script.bucket().await);
    let error = store.leftovers(jiff::Timestamp::now()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

/// Five gigabytes under the name of a data key must not be read into memory.
#[tokio::test]
async fn what_is_larger_than_its_kind_is_refused_before_it_is_read() {
    let key = "keys/0123456789abcdef0123456789abcdef/00000001";
    let script = Script::begin(vec![
        cut(200, "", 5 << 30, "not much of it"),
        cut(
            206,
            "content-range: bytes 0-5368709119/5368709120\r\n",
            5 << 30,
            "x",
        ),
    ])
    .await;
    for range in [None, Some(0..5 << 30)] {
        let error = script.store().await.get(key, range).await.unwrap_err();
        let StoreError::TooLarge { size, limit, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*size, *limit), (5 << 30, 1 << 20));
        assert!(error.to_string().contains(key), "{error}");
    }
    assert_eq!(script.requests().len(), 2);
}

/// Of a listing of versions.
fn versions(entries: &str) -> String {
    let body = format!(
        "<ListVersionsResult><IsTruncated>false</IsTruncated>{entries}</ListVersionsResult>"
    );
    answer(200, "", &body)
}

/// What such a listing does not show may be there all the same.
#[tokio::test]
async fn a_listing_without_versions_proves_nothing_gone() {
    let without_id = "<Version><Key>p/a</Key></Version>";
    for entries in ["", without_id] {
        for (status, is_there) in [(200, true), (404, false)] {
            // Not found may be the bucket, so that a listing is asked for.
            let answers = vec![versions(entries), bare(status), listing("p/ab")];
            let script = Script::begin(answers).await;
            let store: SharedStore = Arc::new(script.bucket().await);
            assert_eq!(store.remains("a").await.unwrap(), is_there, "{entries}");
        }
        let script = Script::begin(vec![versions(entries), bare(200), bare(204)]).await;
        let store: SharedStore = Arc::new(script.bucket().await);
        store.erase("a").await.unwrap();
        let requests = script.requests();
        assert!(requests[2].starts_with("delete "), "{requests:?}");
    }
}
