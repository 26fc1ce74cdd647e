//! Folders walked and files opened below a root, one name at a time, each relative to the folder that is held open, and
//! never through a symbolic link: nothing outside the root is reached, whatever is exchanged meanwhile. A link that leads
//! to a place inside is no loss: that place is found by its own name.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

/// Folders below each other, at most.
const DEPTH_MAX: usize = 12;

/// A file below a root: the root's resolved path, and the names from there on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub root: PathBuf,
    pub below: PathBuf,
}

impl Place {
    /// The place of a path below one of the roots. The path is taken as it is written; `..` makes it none.
    pub fn of(path: &Path, roots: &[Folder]) -> Option<Self> {
        roots.iter().find_map(|root| {
            let below = path.strip_prefix(&root.path).ok()?;
            let plain = below.components().all(|c| matches!(c, Component::Normal(_)));
            (plain && below.file_name().is_some()).then(|| Self { root: root.path.clone(), below: below.to_owned() })
        })
    }

    pub fn path(&self) -> PathBuf {
        self.root.join(&self.below)
    }

    /// The file's name; `None` where it is not UTF-8 or holds control characters.
    pub fn file_name(&self) -> Option<&str> {
        let name = self.below.file_name()?.to_str()?;
        (!name.chars().any(char::is_control)).then_some(name)
    }
}

/// What is known of a regular file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub size: u64,
    /// Written last, nanoseconds since 1970 UTC.
    pub modified: i128,
}

/// A root, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    /// Resolves the links of the configured path itself: the one place where they are followed.
    pub fn resolve(configured: &Path) -> io::Result<Self> {
        let path = std::fs::canonicalize(configured)?;
        if path.is_dir() { Ok(Self { path }) } else { Err(io::Error::from(io::ErrorKind::NotADirectory)) }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Calls `visit` for every regular file below, without opening it. `enter` says which folders are looked into, by
    /// their names from the root on. Of the folders on one path at most are open, whatever there is. Folders that cannot
    /// be read are left out; how many is returned, and one of them.
    pub fn walk(&self, enter: &dyn Fn(&Path) -> bool, visit: &mut dyn FnMut(Place, Stat)) -> io::Result<Unreadable> {
        let mut unreadable = Unreadable::default();
        let mut open_dirs = vec![(Dir::new(self.open()?)?, PathBuf::new())];
        while let Some((dir, below)) = open_dirs.last_mut() {
            let entry = match dir.read() {
                Some(Ok(entry)) => entry,
                Some(Err(_)) => {
                    unreadable.add(below);
                    open_dirs.pop();
                    continue;
                }
                None => {
                    open_dirs.pop();
                    continue;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(fd) = dir.fd() else { continue };
            let path = below.join(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
            let kind = match entry.file_type() {
                FileType::Unknown => statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileType::Unknown, |s| FileType::from_raw_mode(s.st_mode)),
                known => known,
            };
            match kind {
                FileType::Directory if path.components().count() <= DEPTH_MAX && enter(&path) => {
                    match folder_in(fd, name).and_then(|inner| Ok(Dir::new(inner)?)) {
                        Ok(inner) => open_dirs.push((inner, path)),
                        // it has just been removed
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(_) => unreadable.add(&path),
                    }
                }
                FileType::RegularFile => {
                    if let Some(stat) = stat_in(fd, name) {
                        visit(Place { root: self.path.clone(), below: path }, stat);
                    }
                }
                _ => {}
            }
        }
        Ok(unreadable)
    }
}

/// Folders that could not be looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    pub folders: usize,
    /// The first of them, from the root on.
    pub first: Option<PathBuf>,
}

impl Unreadable {
    fn add(&mut self, below: &Path) {
        self.folders += 1;
        self.first.get_or_insert_with(|| below.to_owned());
    }
}

/// Opens the folder a place lies in.
fn parent(place: &Place) -> io::Result<(OwnedFd, CString)> {
    let mut dir = Folder { path: place.root.clone() }.open()?;
    let mut names = Vec::new();
    for component in place.below.components() {
        let Component::Normal(name) = component else { return Err(io::Error::from(io::ErrorKind::InvalidInput)) };
        names.push(CString::new(name.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?);
    }
    let file = names.pop().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    for name in names {
        dir = folder_in(&dir, &name)?;
    }
    Ok((dir, file))
}

fn folder_in(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn stat_in(dir: impl AsFd, name: &CStr) -> Option<Stat> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| Stat {
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
    })
}

impl Place {
    /// `None`: it is gone, or no regular file.
    pub fn stat(&self) -> Option<Stat> {
        let (dir, name) = parent(self).ok()?;
        stat_in(&dir, &name)
    }

    /// Opens the file for reading, and only a regular file. A pipe put in its place does not hold the caller up.
    pub fn open(&self) -> io::Result<File> {
        let (dir, name) = parent(self)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(dir.as_fd(), &*name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_listed_or_opened() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("deep")).unwrap();
        fs::write(outside.path().join("secret.wav"), "secret").unwrap();
        fs::write(outside.path().join("deep/secret.wav"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real/2026")).unwrap();
        fs::write(dir.path().join("real/2026/in.wav"), "inside").unwrap();
        symlink(outside.path(), dir.path().join("real/out")).unwrap();
        symlink(outside.path().join("secret.wav"), dir.path().join("real/link.wav")).unwrap();
        symlink("../real/2026/in.wav", dir.path().join("real/inner.wav")).unwrap();
        symlink(dir.path().join("real"), dir.path().join("root")).unwrap();
        symlink(dir.path().join("real"), dir.path().join("real/loop")).unwrap();

        // the root itself may be a link
        let root = Folder::resolve(&dir.path().join("root")).unwrap();
        let mut seen = Vec::new();
        root.walk(&|_| true, &mut |place, _| seen.push(place)).unwrap();
        assert_eq!(seen.iter().map(|p| p.below.to_str().unwrap()).collect::<Vec<_>>(), ["2026/in.wav"]);
        assert!(seen[0].open().is_ok() && seen[0].stat().unwrap().size == 6);

        let roots = [root.clone()];
        for below in ["link.wav", "out/secret.wav", "out/deep/secret.wav", "inner.wav", "2026", "loop/2026/in.wav"] {
            let place = Place { root: root.path.clone(), below: below.into() };
            assert!(place.open().is_err() && place.stat().is_none(), "{below}");
        }
        for bad in ["../x.wav", "2026/../../x.wav", ""] {
            assert_eq!(Place::of(&root.path.join(bad), &roots), None, "{bad}");
            assert!(Place { root: root.path.clone(), below: bad.into() }.open().is_err(), "{bad}");
        }
        assert_eq!(Place::of(&outside.path().join("secret.wav"), &roots), None);
        // a pipe, a socket, a device: not listed, not opened, and nobody waits for a writer
        let pipe = dir.path().join("real/pipe.wav");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("real/socket.wav")).unwrap();
        for below in ["pipe.wav", "socket.wav"] {
            let place = Place { root: root.path.clone(), below: below.into() };
            assert!(place.open().is_err() && place.stat().is_none(), "{below}");
        }
        let mut seen_again = 0;
        root.walk(&|_| true, &mut |_, _| seen_again += 1).unwrap();
        assert_eq!(seen_again, 1);
        drop(socket);
        assert_eq!(Place::of(Path::new("/etc/passwd"), &roots), None);
        // a folder exchanged for a link after it was found
        fs::remove_dir_all(dir.path().join("real/2026")).unwrap();
        symlink(outside.path(), dir.path().join("real/2026")).unwrap();
        fs::write(outside.path().join("in.wav"), "secret").unwrap();
        assert!(seen[0].open().is_err() && seen[0].stat().is_none());
    }

    #[test]
    fn thousands_of_folders_take_no_more_file_descriptors_than_one_path() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3_000 {
            fs::create_dir(dir.path().join(n.to_string())).unwrap();
        }
        let mut deep = dir.path().join("deep");
        for _ in 0..DEPTH_MAX + 3 {
            deep.push("er");
            fs::create_dir_all(&deep).unwrap();
            fs::write(deep.join("a.wav"), "a").unwrap();
        }
        let open_now = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open_now();
        let (mut seen, mut most) = (0, 0);
        let root = Folder::resolve(dir.path()).unwrap();
        let unreadable = root
            .walk(&|_| true, &mut |_, _| {
                seen += 1;
                most = most.max(open_now());
            })
            .unwrap();
        assert_eq!((unreadable.folders, seen), (0, DEPTH_MAX - 1));
        // other tests run beside this one
        assert!(most < before + 500, "{most} open, {before} before");
    }
}
