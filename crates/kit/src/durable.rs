//! Files that are wholly old or wholly new, whatever happens while they are written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Readable by the owner alone.
pub const PRIVATE: u32 = 0o600;
/// Readable by all.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` with `content`. Once this returns, a power cut keeps the new content; where it fails or the machine
/// stops before, the old one is there. Writers of the same file at the same time do not mix.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let aside = dir.join(format!(".{}.{unique}.new", name.to_string_lossy()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    if let Err(error) = write() {
        // there may be none, and what is left over hurts nobody
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    sync_dir(dir)
}

/// Makes names in `dir` last: new, renamed and removed ones.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.json");
        replace(&path, b"a longer first content", PUBLIC).unwrap();
        replace(&path, b"second", PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["file.json"]);

        // a directory cannot be renamed over
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"x", PRIVATE).is_err());
        assert_eq!(names(dir.path()).len(), 2);
        assert!(replace(&dir.path().join("no/such"), b"x", PRIVATE).is_err());
    }

    #[test]
    fn writers_at_the_same_time_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|s| {
            for letter in *b"abcd" {
                let path = &path;
                s.spawn(move || (0..20).for_each(|n| replace(path, &vec![letter; 4000 + n], PRIVATE).unwrap()));
            }
        });
        let content = fs::read(&path).unwrap();
        assert!(content.len() >= 4000 && content.iter().all(|b| *b == content[0]));
        assert_eq!(names(dir.path()), ["file"]);
    }
}
