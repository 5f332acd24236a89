//! URLs of servers that walvault sends requests to: bare, and encrypted unless on this machine.

use std::net::IpAddr;

use url::{Host, Url};

/// Checks that `endpoint` is the URL of a server and nothing more; whether it has TLS, or is on
/// this machine.
pub fn is_encrypted_or_local(endpoint: &str) -> Result<bool, String> {
    let form = "write https://host or https://host:port";
    let url = Url::parse(endpoint).map_err(|error| format!("it is not a URL ({error}); {form}"))?;
    let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
        return Err(format!("it is not the URL of a server; {form}"));
    };
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    if !bare {
        return Err(format!("it says more than where the server is; {form}"));
    }
    Ok(url.scheme() == "https" || is_loopback(&host))
}

/// Whether a URL's host is this machine, so that nobody can listen on the way.
pub fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => IpAddr::from(*address).is_loopback(),
        Host::Ipv6(address) => IpAddr::from(*address).is_loopback(),
    }
}
