use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn credentials(channel_binding: ChannelBinding) -> Credentials {
    Credentials {
        user: "vault".to_owned(),
        password: Password::Known(Arc::new(Secret::new("secret".to_owned()))),
        channel_binding,
    }
}

fn sasl(mechanisms: &[&str]) -> AuthRequest {
    AuthRequest::Sasl {
        mechanisms: mechanisms.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn begin(
    policy: ChannelBinding,
    transport: Transport,
    request: AuthRequest,
) -> Result<Vec<u8>, AuthError> {
    match Authentication::new(credentials(policy), transport).on(request)? {
        AuthStep::Send(outgoing, _) => Ok(outgoing.bytes().to_vec()),
        AuthStep::Wait(_) | AuthStep::Accepted => Ok(Vec::new()),
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn binds_to_tls_where_both_sides_can() {
    let tls = || Transport::Tls(Some(vec![7; 32]));
    let both = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
    let sent = begin(ChannelBinding::Prefer, tls(), sasl(&both)).expect("an answer");
    assert!(holds(&sent, "SCRAM-SHA-256-PLUS\0") && holds(&sent, "p=tls-server-end-point,,"));
    let sent = begin(ChannelBinding::Prefer, tls(), sasl(&both[1..])).expect("an answer");
    assert!(holds(&sent, "SCRAM-SHA-256\0") && holds(&sent, "y,,"));
    let sent = begin(ChannelBinding::Disable, tls(), sasl(&both)).expect("an answer");
    assert!(holds(&sent, "SCRAM-SHA-256\0") && holds(&sent, "n,,"));
}

#[test]
fn a_required_binding_is_never_given_up() {
    let tls = || Transport::Tls(Some(vec![7; 32]));
    for (transport, request) in [
        (tls(), sasl(&["SCRAM-SHA-256"])),
        (
            Transport::Tls(None),
            sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        ),
        (Transport::Plain, sasl(&["SCRAM-SHA-256"])),
        (tls(), AuthRequest::Cleartext),
        (tls(), AuthRequest::Md5 { salt: [1; 4] }),
        (tls(), AuthRequest::Ok),
    ] {
        let outcome = begin(ChannelBinding::Require, transport, request);
        assert!(matches!(outcome, Err(AuthError::ChannelBinding(_))));
    }
}

#[test]
fn a_server_cannot_skip_its_own_proof() {
    let begun = Authentication::new(credentials(ChannelBinding::Prefer), Transport::Plain)
        .on(sasl(&["SCRAM-SHA-256"]))
        .map_err(|error| error.to_string());
    let Ok(AuthStep::Send(_, waiting)) = begun else {
        panic!("SCRAM begins");
    };
    assert!(matches!(
        waiting.on(AuthRequest::Ok),
        Err(AuthError::OutOfTurn(_))
    ));
}

#[test]
fn hashes_md5_as_postgresql_does() {
    let sent = begin(
        ChannelBinding::Prefer,
        Transport::Plain,
        AuthRequest::Md5 { salt: [1, 2, 3, 4] },
    );
    let sent = sent.expect("an answer");
    assert_eq!((sent[0], sent.len()), (b'p', 1 + 4 + 35 + 1));
    assert!(holds(&sent, "md5"));
}

#[test]
fn a_missing_password_says_why() {
    let mut nobody = credentials(ChannelBinding::Prefer);
    nobody.password = Password::Missing("none is configured".to_owned());
    let outcome = Authentication::new(nobody, Transport::Plain).on(AuthRequest::Cleartext);
    let error = outcome.err().expect("no password");
    assert_eq!(
        error.to_string(),
        "the server asks for the password of user 'vault', but none is configured"
    );
}

proptest! {
    #[test]
    fn no_server_message_panics(first: Vec<u8>, second: Vec<u8>) {
        let begun = Authentication::new(credentials(ChannelBinding::Prefer), Transport::Plain)
            .on(sasl(&["SCRAM-SHA-256"]));
        if let Ok(AuthStep::Send(_, waiting)) = begun
            && let Ok(AuthStep::Send(_, waiting)) = waiting.on(AuthRequest::SaslContinue(Bytes::from(first)))
        {
            let _ = waiting.on(AuthRequest::SaslFinal(Bytes::from(second)));
        }
    }
}
