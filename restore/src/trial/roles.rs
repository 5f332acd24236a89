//! Roles to ask a trial's server as.

use walvault_config::{Config, env_lookup};
use walvault_protocol::client::ConnInfo;

/// Roles that the cluster is likely to have: walvault's own, and those that initdb makes.
#[must_use]
pub fn roles(config: &Config, owner: Option<&str>) -> Vec<String> {
    let info = ConnInfo::parse(config.postgres.url.reveal(), &env_lookup);
    let own = info.ok().map(|info| info.user().to_owned());
    let mut roles: Vec<String> = own.into_iter().collect();
    roles.extend(
        [Some("postgres"), owner]
            .into_iter()
            .flatten()
            .map(str::to_owned),
    );
    roles.dedup();
    roles
}
