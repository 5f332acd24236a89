//! Where `tests/tools/setup.sh` put PostgreSQL, Garage and Python's packages. What is not there ends
//! the test that asks: see [`crate::needs`].

use std::env;
use std::path::PathBuf;

use crate::needs;
use crate::user::is_root;

/// The major version that Debian 12 carries. Only it comes with every client program.
pub const DEBIAN_MAJOR: u32 = 15;

/// Every major version of PostgreSQL that walvault supports.
pub const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// The directory of a major version's `postgres` and `initdb`.
#[must_use]
pub fn server_bin(major: u32) -> PathBuf {
    installed(bin_of(major), &format!("PostgreSQL {major}"))
}

/// Those of [`MAJORS`] that are installed, for tests of every version. The others are said to be
/// left out.
#[must_use]
pub fn installed_majors() -> Vec<u32> {
    let (installed, missing): (Vec<u32>, Vec<u32>) = MAJORS
        .iter()
        .partition(|&&major| bin_of(major).join("postgres").exists());
    match (&installed[..], &missing[..]) {
        ([], _) => needs::missing("PostgreSQL is not installed"),
        (_, []) => {}
        (_, missing) => needs::leave_out(&format!("PostgreSQL {missing:?} is not installed")),
    }
    installed
}

fn bin_of(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").exists() {
        return debian;
    }
    // Root's own cache is out of reach of the user that servers run as.
    let servers = match env::var_os("WALVAULT_CACHE") {
        None if is_root() => PathBuf::from("/var/cache/walvault/postgres"),
        _ => cache().join("postgres"),
    };
    servers.join(format!("{major}/bin"))
}

/// One of PostgreSQL's client programs, from Debian's packages. They speak to every server, those
/// that read data files only to [`DEBIAN_MAJOR`].
#[must_use]
pub fn client_program(name: &str) -> PathBuf {
    let bin = PathBuf::from(format!("/usr/lib/postgresql/{DEBIAN_MAJOR}/bin"));
    installed(bin.join(name), name)
}

/// The S3 server.
#[must_use]
pub fn garage() -> PathBuf {
    installed(cache().join("garage/bin/garage"), "Garage")
}

/// A program of the Python environment.
#[must_use]
pub fn python_program(name: &str) -> PathBuf {
    installed(cache().join("python/bin").join(name), name)
}

/// Prometheus' own tool, which checks metrics and rules.
#[must_use]
pub fn promtool() -> PathBuf {
    installed(cache().join("prometheus/promtool"), "promtool")
}

/// What tells programs another time (Debian's package `libfaketime`).
#[must_use]
pub fn faketime() -> PathBuf {
    let lib = PathBuf::from("/usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    installed(lib.join("faketime/libfaketimeMT.so.1"), "libfaketime")
}

/// Helm, which renders charts.
#[must_use]
pub fn helm() -> PathBuf {
    installed(cache().join("helm/helm"), "Helm")
}

/// The Python that has the packages of `tests/tools/requirements.txt`.
#[must_use]
pub fn python() -> PathBuf {
    installed(cache().join("python/bin/python"), "moto")
}

/// One of walvault's own programs, as built for the test that is running.
#[must_use]
pub fn own_program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    let program = profile.join(name);
    if !program.exists() {
        let release = match profile.ends_with("release") {
            true => " --release",
            false => "",
        };
        let program = program.display();
        needs::missing(&format!(
            "{program} is not built: 'cargo build{release}' does that"
        ));
    }
    program
}

fn cache() -> PathBuf {
    let dir = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    dir("WALVAULT_CACHE").unwrap_or_else(|| {
        dir("XDG_CACHE_HOME")
            .unwrap_or_else(|| dir("HOME").expect("HOME is set").join(".cache"))
            .join("walvault")
    })
}

pub(crate) fn installed(path: PathBuf, what: &str) -> PathBuf {
    if !path.exists() {
        let path = path.display();
        needs::missing(&format!("{what} is not installed ({path} is missing)"));
    }
    path
}
