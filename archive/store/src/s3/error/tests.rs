use super::*;

fn sort(said: &Said<'_>) -> StoreError {
    let context = Context {
        store: "s3://wal/prod",
        bucket: "wal",
        action: "put",
        key: "archive.json",
    };
    context.sort(said)
}

fn said(status: u16, code: &'static str) -> Said<'static> {
    Said {
        status,
        code,
        ..Said::default()
    }
}

#[test]
fn trouble_that_passes_is_waited_out() {
    for (status, code) in [
        (500, "InternalError"),
        (503, "SlowDown"),
        (503, ""),
        (502, ""),
        (507, "XMinioStorageFull"),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (307, "TemporaryRedirect"),
    ] {
        let error = sort(&said(status, code));
        assert!(error.is_transient(), "{status} {code}: {error}");
    }
}

#[test]
fn what_somebody_has_to_change_is_refused_with_what_to_change() {
    for (status, code, remedy) in [
        (404, "NoSuchBucket", "create the bucket 'wal'"),
        (404, "", "does not speak S3"),
        (200, "", "does not speak S3"),
        (403, "AccessDenied", "grant them s3:PutObject"),
        (403, "", "grant them s3:PutObject"),
        (403, "SignatureDoesNotMatch", "secret access key"),
        (403, "InvalidAccessKeyId", "access key id"),
        (400, "ExpiredToken", "renew"),
        (403, "RequestTimeTooSkewed", "clock"),
        (301, "PermanentRedirect", "archive.s3.region"),
        (400, "AuthorizationHeaderMalformed", "archive.s3.region"),
        (400, "BadDigest", "memory"),
        (501, "NotImplemented", "[archive.s3]"),
        (400, "SomethingNew", "[archive.s3]"),
    ] {
        let error = sort(&said(status, code));
        let StoreError::Refused { remedy: found, .. } = &error else {
            panic!("{status} {code}: {error}");
        };
        assert!(found.contains(remedy), "{status} {code}: {found}");
    }
}

#[test]
fn only_no_such_key_proves_absence() {
    let error = sort(&said(404, "NoSuchKey"));
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    for code in ["", "NoSuchUpload", "NotFound"] {
        let error = sort(&said(404, code));
        assert!(
            matches!(error, StoreError::Refused { .. }),
            "{code}: {error}"
        );
    }
}

#[test]
fn a_wrong_region_is_named_when_the_store_tells_the_right_one() {
    let error = sort(&Said {
        status: 301,
        code: "PermanentRedirect",
        message: "The bucket must be addressed elsewhere.",
        region: Some("eu-west-1"),
        request: Some("4442587FB7D0A2F9"),
    });
    let text = error.to_string();
    assert!(
        text.contains("set archive.s3.region to \"eu-west-1\""),
        "{text}"
    );
    assert!(
        text.contains("must be addressed elsewhere (request 4442587FB7D0A2F9)"),
        "{text}"
    );
}
