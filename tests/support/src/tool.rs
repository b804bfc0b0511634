//! The programs that tests run.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Directories of servers that the `PATH` of an ordinary user often lacks.
const MORE_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Where a program is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(MORE_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| is_executable(file))
}

/// Where a program is installed; if it is not, says so, with the Debian package that has it.
///
/// # Panics
/// If it is not installed and `CI` is set: there a skipped test is a failed one.
pub fn require(program: &str, package: &str) -> Option<PathBuf> {
    or_skip(find(program), program, package)
}

/// Where libfaketime is, which gives a process another clock; if it is not installed, as
/// [`require`].
///
/// # Panics
/// As [`require`].
pub fn require_faketime() -> Option<PathBuf> {
    // Of a program with threads.
    const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
    let directories = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let found = directories
        .map(|directory| directory.path().join(LIBRARY))
        .find(|file| file.is_file());
    or_skip(found, LIBRARY, "faketime")
}

/// A program that a script of ours fetches; if it is not there, as [`require`].
///
/// # Panics
/// As [`require`].
pub fn require_fetched(file: &Path, script: &str) -> Option<PathBuf> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let found = is_executable(file).then(|| file.to_owned());
    or_skip_by(found, &name, script)
}

fn or_skip(found: Option<PathBuf>, what: &str, package: &str) -> Option<PathBuf> {
    or_skip_by(found, what, &format!("apt-get install {package}"))
}

fn or_skip_by(found: Option<PathBuf>, what: &str, how: &str) -> Option<PathBuf> {
    if found.is_none() {
        let sentence = format!("needs {what} ({how})");
        let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!in_ci, "{sentence}");
        // Not eprintln!: the test harness would keep it to itself, for the test passes.
        let _ = writeln!(io::stderr(), "SKIPPED: {sentence}");
    }
    found
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    const ANY_EXECUTE: u32 = 0o111;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & ANY_EXECUTE != 0)
}
