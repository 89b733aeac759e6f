//! Stopping the world before any change of the file system, and what a power cut leaves of it.
//!
//! The model of a power cut is the worst that POSIX allows: a file has the bytes of its last sync, a directory the
//! entries of its last sync, whatever else happened; a name that was synced without its file leads to zeros of the
//! right length.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::store::disk::Step;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// The world of one thread's store.
#[derive(Default)]
pub(in crate::store) struct World {
    /// Changes so far.
    pub(in crate::store) steps: u64,
    /// The change before which everything stops.
    pub(in crate::store) stop_at: Option<u64>,
    /// Only these kinds of change fail, with this error, instead of all.
    pub(in crate::store) fail: Option<(Step, io::ErrorKind)>,
    /// What would survive a power cut.
    pub(in crate::store) durable: Option<Durable>,
    /// Looks at the disk before each change.
    pub(in crate::store) reader: Option<Box<dyn Fn()>>,
}

/// Asked before each change.
pub(in crate::store) fn before(step: Step, path: &Path) -> io::Result<()> {
    WORLD.with_borrow_mut(|world| {
        world
            .as_mut()
            .map_or(Ok(()), |world| world.before(step, path))
    })
}

/// Runs `work` in `world` and gives that back.
pub(in crate::store) fn within<T>(world: World, work: impl FnOnce() -> T) -> (T, World) {
    WORLD.set(Some(world));
    let result = work();
    (result, WORLD.take().unwrap())
}

impl World {
    fn before(&mut self, step: Step, path: &Path) -> io::Result<()> {
        self.steps += 1;
        if self.stop_at.is_some_and(|stop| self.steps >= stop) {
            return Err(io::Error::other("the world stopped"));
        }
        if let Some((failing, kind)) = self.fail
            && failing == step
        {
            return Err(kind.into());
        }
        if let Some(durable) = &mut self.durable {
            durable.observe(step, path);
        }
        if let Some(reader) = &self.reader {
            reader();
        }
        Ok(())
    }
}

/// What is on the medium, by inode.
pub(in crate::store) struct Durable {
    root: u64,
    nodes: HashMap<u64, Node>,
    next: u64,
}

enum Node {
    File(Vec<u8>, u32),
    Directory(BTreeMap<String, u64>),
    Link(PathBuf),
}

impl Durable {
    pub(in crate::store) fn new(root: &Path) -> Self {
        let mut durable = Self {
            root: fs::metadata(root).unwrap().ino(),
            nodes: HashMap::new(),
            next: 1 << 60,
        };
        durable.sync_tree(root);
        durable
    }

    fn observe(&mut self, step: Step, path: &Path) {
        match step {
            Step::SyncFile => {
                let metadata = fs::metadata(path).unwrap();
                self.sync_file(path, &metadata);
            }
            Step::SyncDirectory => self.sync_directory(path),
            Step::SyncAll => self.sync_tree(path),
            Step::Rename | Step::Remove | Step::RemoveTree => self.retire(path),
            _ => {}
        }
    }

    fn sync_file(&mut self, path: &Path, metadata: &Metadata) {
        let node = Node::File(fs::read(path).unwrap(), metadata.permissions().mode());
        self.nodes.insert(metadata.ino(), node);
    }

    fn sync_directory(&mut self, path: &Path) {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            entries.insert(entry.file_name().into_string().unwrap(), metadata.ino());
            self.nodes.entry(metadata.ino()).or_insert_with(|| {
                if metadata.is_dir() {
                    Node::Directory(BTreeMap::new())
                } else if metadata.is_symlink() {
                    Node::Link(fs::read_link(entry.path()).unwrap())
                } else {
                    let zeros = vec![0; usize::try_from(metadata.len()).unwrap()];
                    Node::File(zeros, metadata.permissions().mode())
                }
            });
        }
        let ino = fs::metadata(path).unwrap().ino();
        self.nodes.insert(ino, Node::Directory(entries));
    }

    fn sync_tree(&mut self, path: &Path) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                self.sync_tree(&entry.path());
            } else if metadata.is_file() {
                self.sync_file(&entry.path(), &metadata);
            }
        }
        self.sync_directory(path);
    }

    /// What lies there is about to go; its inode number may be used again, what is durable of it stays.
    fn retire(&mut self, path: &Path) {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return;
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.retire(&entry.unwrap().path());
            }
        } else if metadata.nlink() > 1 {
            return;
        }
        if let Some(node) = self.nodes.remove(&metadata.ino()) {
            self.next += 1;
            self.nodes.insert(self.next, node);
            for node in self.nodes.values_mut() {
                if let Node::Directory(entries) = node {
                    for ino in entries.values_mut().filter(|ino| **ino == metadata.ino()) {
                        *ino = self.next;
                    }
                }
            }
        }
    }

    /// Writes what survived to a new directory.
    pub(in crate::store) fn restore(&self, to: &Path) {
        self.restore_node(self.root, to, &mut HashMap::new());
    }

    fn restore_node(&self, ino: u64, to: &Path, first_names: &mut HashMap<u64, PathBuf>) {
        match &self.nodes[&ino] {
            Node::File(content, permissions) => {
                if let Some(first) = first_names.get(&ino) {
                    fs::hard_link(first, to).unwrap();
                } else {
                    fs::write(to, content).unwrap();
                    fs::set_permissions(to, fs::Permissions::from_mode(*permissions)).unwrap();
                    first_names.insert(ino, to.to_path_buf());
                }
            }
            Node::Directory(entries) => {
                let _ = fs::create_dir(to);
                for (name, ino) in entries {
                    self.restore_node(*ino, &to.join(name), first_names);
                }
            }
            Node::Link(target) => std::os::unix::fs::symlink(target, to).unwrap(),
        }
    }
}
