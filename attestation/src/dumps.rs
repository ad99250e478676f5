//! Keeps what a process knows out of core dumps: secrets in memory must not end on a disk when it crashes.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on neither this process nor a child that it starts leaves a core file, and nobody without the right to all
/// processes can attach to it or read its memory.
///
/// A limit of 0 bytes stops files (`core(5)`); only `PR_SET_DUMPABLE` also stops the kernel from piping the memory to a
/// handler such as systemd-coredump. Children that run another program are dumpable again, but keep the limit.
///
/// # Errors
/// When the kernel refuses, which it doesn't for less than a process had.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn a_process_that_forbids_it_is_never_dumped() {
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        forbid().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        forbid().unwrap();
    }
}
