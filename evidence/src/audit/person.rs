//! Who acts, as far as the operating system and Kubernetes tell.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Actor;

/// Where Kubernetes puts a pod's token (Kubernetes documentation, "Service Accounts").
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

impl Actor {
    /// Who runs this process: `operator` if somebody says so, else the service account of the pod,
    /// else the system's user. `program` is its name and version.
    #[must_use]
    pub fn of_this_process(operator: Option<String>, program: &str) -> Actor {
        let account = || service_account(&fs::read_to_string(TOKEN).ok()?);
        let host = rustix::system::uname();
        Actor {
            operator: operator.or_else(account).unwrap_or_else(system_user),
            host: host.nodename().to_string_lossy().into_owned(),
            program: program.to_owned(),
        }
    }
}

/// `system:serviceaccount:<namespace>:<name>`, the subject of a token (RFC 7519, section 4.1.2). It is
/// not verified here: it says who the process is meant to be, as a user's name does.
fn service_account(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims["sub"].as_str().map(str::to_owned)
}

/// The name of the real user id, passwd(5), or its number.
fn system_user() -> String {
    let id = rustix::process::getuid().as_raw().to_string();
    user_named(Path::new("/etc/passwd"), &id).unwrap_or_else(|| format!("user {id}"))
}

fn user_named(passwd: &Path, id: &str) -> Option<String> {
    let users = fs::read_to_string(passwd).ok()?;
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&id)).then(|| fields[0].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_is_the_operator_the_service_account_or_the_user() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:db:walvault"}"#);
        let token = format!("e30.{claims}.c2ln");
        let account = service_account(&token);
        assert_eq!(
            account.as_deref(),
            Some("system:serviceaccount:db:walvault")
        );
        assert_eq!(service_account("no token"), None);

        let passwd = tempfile::NamedTempFile::new().expect("a file");
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:26:26::/:/bin/sh\n";
        fs::write(passwd.path(), users).expect("written");
        let named = |id| user_named(passwd.path(), id);
        assert_eq!(named("26").as_deref(), Some("postgres"));
        assert_eq!(named("27"), None);
        let said = Actor::of_this_process(Some("Ann".to_owned()), "walvault 1");
        assert_eq!(
            (said.operator.as_str(), said.program.as_str()),
            ("Ann", "walvault 1")
        );
    }
}
