//! The instances' directories: made with their request, found again, removed.

use std::{fs, io, path::Path};

use super::api::Record;

/// Removes an instance's directory at once, as far as anybody who looks can tell.
pub(super) fn remove_dir(instances: &Path, node: &str) -> io::Result<()> {
    let doomed = instances.join(format!("{DOOMED}{node}"));
    match fs::rename(instances.join(node), &doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    fs::remove_dir_all(doomed)
}

/// The VMs on disk. With `sweep`, removes what is left of interrupted removals and launches that never began.
pub(super) fn load(instances: &Path, sweep: bool) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    let entries = match fs::read_dir(instances) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(records),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let record = fs::read(path.join(REQUEST)).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        let named = |record: &Record| path.file_name().is_some_and(|name| name == record.node.as_str());
        match record.filter(named) {
            Some(record) => records.push(record),
            None if sweep => fs::remove_dir_all(&path)?,
            None => {}
        }
    }
    Ok(records)
}

/// Makes the directory with its request; after this the VM exists.
pub(super) fn create(instances: &Path, record: &Record) -> io::Result<()> {
    let dir = instances.join(&record.node);
    fs::create_dir_all(&dir)?;
    let unfinished = dir.join("request.unfinished");
    fs::write(&unfinished, serde_json::to_vec_pretty(record)?)?;
    fs::rename(unfinished, dir.join(REQUEST))
}

const REQUEST: &str = "request.json";
/// No uid begins with a dot.
const DOOMED: &str = ".removed-";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn record(node: &str) -> Record {
        Record {
            node: node.into(),
            name: "cp-0".into(),
            control_plane: true,
            image: "/node.img".into(),
            instance_type: "1x512".into(),
            state_disk_bytes: 1,
            index: 0,
            launch_config: vec![1, 2, 3],
        }
    }

    fn given_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("constellation-instance-{name}-{}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn an_instance_on_disk_is_found_again() {
        let dir = given_dir("found");
        create(&dir, &record("n-1")).unwrap();
        create(&dir, &record("n-1")).unwrap();
        assert_eq!(load(&dir, true).unwrap(), [record("n-1")]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn interrupted_launches_and_removals_are_swept_and_never_shown() {
        let dir = given_dir("swept");
        fs::create_dir(dir.join("n-1")).unwrap();
        create(&dir, &record("n-2")).unwrap();
        fs::rename(dir.join("n-2"), dir.join(".removed-n-2")).unwrap();
        assert_eq!(load(&dir, false).unwrap(), []);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        assert_eq!(load(&dir, true).unwrap(), []);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn removing_an_instance_twice_is_fine() {
        let dir = given_dir("removed");
        create(&dir, &record("n-1")).unwrap();
        remove_dir(&dir, "n-1").unwrap();
        remove_dir(&dir, "n-1").unwrap();
        assert_eq!(load(&dir, false).unwrap(), []);
        fs::remove_dir_all(dir).unwrap();
    }
}
