//! A network namespace: programs in it reach this machine through a link that can be taken away
//! (ip-netns(8), veth(4)). Only root can make one.

use std::process::Command;

use crate::outcome::Outcome;

/// A namespace with one link to this machine. Dropping it removes both.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    subnet: u8,
}

impl Namespace {
    /// Makes one; see [`crate::user::needs_to_administer`].
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn new() -> Namespace {
        // Networks of 198.18.0.0/15 are for such tests (RFC 2544); another test may have taken this one.
        for _ in 0..20 {
            let subnet = rand::random();
            let namespace = Namespace {
                name: format!("wv-{}-{subnet}", std::process::id()),
                subnet,
            };
            let taken = ip(&["-o", "address"]).succeeded().stdout;
            if taken.contains(&format!(" {}/", namespace.host(1))) {
                continue;
            }
            namespace.make();
            return namespace;
        }
        panic!("no network is free");
    }

    /// An address of this machine as the namespace sees it: the first or the second.
    #[must_use]
    pub fn host(&self, which: u8) -> String {
        // Each in a network of its own: an address takes others of its network along when it goes.
        format!("198.18.{}.{}", self.subnet, u16::from(which - 1) * 128 + 1)
    }

    /// Has this machine answer to an address no more: packets to it are dropped without a word.
    pub fn lose_host(&self, which: u8) {
        self.change_host("del", which);
    }

    /// Has this machine answer to it again.
    pub fn bring_back_host(&self, which: u8) {
        self.change_host("add", which);
    }

    /// Takes the link away, or brings it back.
    pub fn set_link(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        let _ = ip(&["link", "set", &self.link(), state]).succeeded();
    }

    /// The same command, to run inside.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        // ip replaces itself with the program: the child's id is the program's.
        inside
            .args(["netns", "exec", &self.name])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    fn make(&self) {
        let (name, link, far) = (&self.name, self.link(), format!("{}p", self.link()));
        let _ = ip(&["netns", "add", name]).succeeded();
        let veth = ["type", "veth", "peer", "name", &far, "netns", name];
        let _ = ip(&[&["link", "add", &link][..], &veth].concat()).succeeded();
        let _ = ip(&["link", "set", &link, "up"]).succeeded();
        for which in [1, 2] {
            self.bring_back_host(which);
        }
        let within = |arguments: &[&str]| {
            let _ = ip(&[&["-n", name][..], arguments].concat()).succeeded();
        };
        for end in [2, 130] {
            let theirs = format!("198.18.{}.{end}/25", self.subnet);
            within(&["address", "add", &theirs, "dev", &far]);
        }
        within(&["link", "set", &far, "up"]);
        within(&["link", "set", "lo", "up"]);
    }

    fn change_host(&self, action: &str, which: u8) {
        let address = format!("{}/25", self.host(which));
        let _ = ip(&["address", action, &address, "dev", &self.link()]).succeeded();
    }

    fn link(&self) -> String {
        // At most 15 bytes, and the far end's name is one longer.
        format!("wv{:x}n{}", std::process::id() & 0xff_ffff, self.subnet)
    }
}

impl Default for Namespace {
    fn default() -> Namespace {
        Namespace::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with the namespace, once nobody is in it.
        let _ = ip(&["link", "del", &self.link()]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Outcome {
    let mut command = Command::new("ip");
    command.args(arguments);
    Outcome::of(command)
}
