use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST};
use walvault_config::{Secret, TokenSource};

use super::*;
use crate::admin::access::{Denied, Needs};

const TOKEN: &str = "correct-horse-battery";

fn access(token: bool, exposed: bool) -> Access {
    let token = token.then(|| TokenSource::Value(Secret::new(TOKEN.to_owned())));
    Access::new(token, exposed)
}

fn with(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, value.parse().unwrap())])
}

#[test]
fn orders_need_the_bearer_token_everywhere() {
    let bearer = with(AUTHORIZATION, &format!("bearer {TOKEN}"));
    let wrong = with(AUTHORIZATION, "Bearer correct-horse-batterz");
    // base64 of "x:correct-horse-battery": a browser sends that by itself.
    let basic = with(AUTHORIZATION, "Basic eDpjb3JyZWN0LWhvcnNlLWJhdHRlcnk=");
    let nothing = HeaderMap::new();
    for exposed in [false, true] {
        let access = access(true, exposed);
        assert_eq!(access.allows(Needs::Order, &bearer), Ok(()));
        for headers in [&wrong, &basic, &nothing] {
            let denied = access.allows(Needs::Order, headers);
            assert_eq!(denied, Err(Denied::Unauthorized));
        }
    }
    let denied = access(false, false).allows(Needs::Order, &bearer);
    assert_eq!(denied, Err(Denied::NoToken));
}

#[test]
fn looking_needs_the_token_where_others_can_ask() {
    let basic = with(AUTHORIZATION, "Basic eDpjb3JyZWN0LWhvcnNlLWJhdHRlcnk=");
    let nothing = HeaderMap::new();
    let exposed = access(true, true);
    assert_eq!(exposed.allows(Needs::Look, &basic), Ok(()));
    assert_eq!(
        exposed.allows(Needs::Look, &nothing),
        Err(Denied::Unauthorized)
    );
    assert_eq!(exposed.allows(Needs::Nothing, &nothing), Ok(()));
}

#[test]
fn a_name_that_was_pointed_here_is_not_answered() {
    let local = access(false, false);
    for host in ["127.0.0.1:9847", "localhost:9847", "[::1]:9847", "10.0.0.7"] {
        assert_eq!(local.allows(Needs::Look, &with(HOST, host)), Ok(()));
    }
    let denied = local.allows(Needs::Look, &with(HOST, "rebound.example:9847"));
    assert_eq!(denied, Err(Denied::OtherHost));
}

#[test]
fn a_token_file_may_be_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let access = Access::new(Some(TokenSource::File(path.clone())), true);
    assert!(access.check().is_err());
    std::fs::write(&path, "short\n").unwrap();
    let error = access.check().unwrap_err().to_string();
    assert!(error.contains("fewer than 16"), "{error}");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    let bearer = with(AUTHORIZATION, &format!("Bearer {TOKEN}"));
    assert_eq!(access.allows(Needs::Order, &bearer), Ok(()));
    std::fs::write(&path, "another-token-by-now\n").unwrap();
    assert!(access.allows(Needs::Order, &bearer).is_err());
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let settings = AdminSettings {
        listen: Some(taken.local_addr().unwrap()),
        ..AdminSettings::default()
    };
    let error = Admin::bind(&settings).err().unwrap().to_string();
    assert!(error.contains("another walvaultd"), "{error}");
    let off = AdminSettings {
        listen: None,
        ..settings
    };
    assert!(Admin::bind(&off).unwrap().is_none());
}
