//! Where `tests/tools/setup.sh` put PostgreSQL, Garage and Python's packages.

use std::env;
use std::path::{Path, PathBuf};

use crate::user::is_root;

/// The major version that Debian 12 carries. Only it comes with every client program.
pub const DEBIAN_MAJOR: u32 = 15;

/// Every major version of PostgreSQL that walvault supports.
pub const MAJORS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// The directory of a major version's `postgres` and `initdb`.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn server_bin(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").exists() {
        return debian;
    }
    // Root's own cache is out of reach of the user that servers run as.
    let servers = match env::var_os("WALVAULT_CACHE") {
        None if is_root() => PathBuf::from("/var/cache/walvault/postgres"),
        _ => cache().join("postgres"),
    };
    installed(
        servers.join(format!("{major}/bin")),
        &format!("PostgreSQL {major}"),
    )
}

/// One of PostgreSQL's client programs, from Debian's packages. They speak to every server, those
/// that read data files only to [`DEBIAN_MAJOR`].
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn client_program(name: &str) -> PathBuf {
    let bin = PathBuf::from(format!("/usr/lib/postgresql/{DEBIAN_MAJOR}/bin"));
    installed(bin.join(name), name)
}

/// The S3 server.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn garage() -> PathBuf {
    installed(cache().join("garage/bin/garage"), "Garage")
}

/// A program of the Python environment.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn python_program(name: &str) -> PathBuf {
    installed(cache().join("python/bin").join(name), name)
}

/// Prometheus' own tool, which checks metrics and rules.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn promtool() -> PathBuf {
    installed(cache().join("prometheus/promtool"), "promtool")
}

/// What tells programs another time (Debian's package `libfaketime`).
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn faketime() -> PathBuf {
    let lib = PathBuf::from("/usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    installed(lib.join("faketime/libfaketimeMT.so.1"), "libfaketime")
}

/// Helm, which renders charts.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn helm() -> PathBuf {
    installed(cache().join("helm/helm"), "Helm")
}

/// The Python that has the packages of `tests/tools/requirements.txt`.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn python() -> PathBuf {
    installed(cache().join("python/bin/python"), "moto")
}

/// One of walvault's own programs, as built for the test that is running.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn own_program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    let program = profile.join(name);
    assert!(
        program.exists(),
        "{} is not built; run 'cargo build{}' first",
        program.display(),
        if profile.ends_with("release") {
            " --release"
        } else {
            ""
        }
    );
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

fn installed(path: PathBuf, what: &str) -> PathBuf {
    assert!(
        Path::new(&path).exists(),
        "{what} is not installed ({} is missing); run tests/tools/setup.sh",
        path.display()
    );
    path
}
