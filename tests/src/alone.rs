//! Programs that inherit no file of the test that starts them but their standard streams.
//!
//! The TPM library opens its connections without `FD_CLOEXEC`, and a software TPM serves one connection at a time: a
//! program that was started by another thread meanwhile kept the connection open, and the TPM silent for as long as it
//! ran.

use std::{ffi::OsStr, process::Command};

/// Closes everything but the standard streams, and bash's own 255, which it closes itself; then becomes the program.
const CLOSE: &str = r#"for fd in /proc/self/fd/*; do
    number=${fd##*/}
    [ "$number" -gt 2 ] && [ "$number" -ne 255 ] && eval "exec $number>&-"
done
exec "$@""#;

/// A command that becomes this program, under the same process id.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", CLOSE, "alone"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_inherited_but_the_standard_streams() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let seen = |mut command: Command| {
            let output = command.args(["/proc/self/fd"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().lines().count()
        };
        // ls has the folder open, too.
        assert!(seen(Command::new("ls")) > 4);
        assert_eq!(seen(command("ls")), 4);
        drop(file);
    }
}
