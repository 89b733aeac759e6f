//! Reads what is published on every node all the time, as pods would: it must be whole and right whenever it is there, and
//! stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use modelcache_bench::model::{Model, REPOSITORY};

/// How long it pauses between two nodes.
const PAUSE: Duration = Duration::from_millis(50);

/// What a pod may see: the files by name.
#[derive(Debug)]
pub struct Original {
    files: Vec<(String, Vec<u8>)>,
    commit: String,
}

impl Original {
    /// As the hub has it.
    pub fn read(model: &Model, commit: &str) -> Result<Self> {
        let mut files = Vec::new();
        for file in &model.files {
            let bytes = fs::read(model.directory.join(&file.path))?;
            files.push((file.path.clone(), bytes));
        }
        Ok(Self {
            files,
            commit: commit.to_owned(),
        })
    }

    /// Whether a node has published the model. An error when anything of what it shows is wrong or missing.
    pub fn check_volume(&self, root: &Path) -> Result<bool> {
        let volume = root.join("models/bench/model");
        if fs::symlink_metadata(&volume).is_err() {
            return Ok(false);
        }
        self.check(&volume.join("files"))?;
        self.check(&self.snapshot_of(&volume.join("hub")))?;
        Ok(true)
    }

    /// The hub cache of the whole node too.
    pub fn check_all(&self, root: &Path) -> Result<()> {
        ensure!(self.check_volume(root)?, "the model is not published");
        self.check(&self.snapshot_of(&root.join("hub")))
    }

    fn snapshot_of(&self, hub: &Path) -> PathBuf {
        let folder = format!("models--{}", REPOSITORY.replace('/', "--"));
        hub.join(folder).join("snapshots").join(&self.commit)
    }

    /// Whether a directory shows exactly the files. Every byte is compared: that proves more than its hash.
    fn check(&self, directory: &Path) -> Result<()> {
        let mut names = BTreeSet::new();
        let listing = fs::read_dir(directory)
            .with_context(|| format!("{} is missing", directory.display()))?;
        for entry in listing {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        for (name, bytes) in &self.files {
            ensure!(
                names.remove(name),
                "{name} is missing in {}",
                directory.display()
            );
            let path = directory.join(name);
            let found =
                fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            ensure!(
                found == *bytes,
                "{} has {} bytes, {} of them wrong, first at {:?}; it should have {}",
                path.display(),
                found.len(),
                found.iter().zip(bytes).filter(|(a, b)| a != b).count(),
                found.iter().zip(bytes).position(|(a, b)| a != b),
                bytes.len()
            );
        }
        ensure!(
            names.is_empty(),
            "{} shows {names:?} too",
            directory.display()
        );
        Ok(())
    }
}

/// The reader; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    published: BTreeSet<PathBuf>,
    wrong: Option<String>,
    checks: u64,
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to read below these roots of caches.
    #[must_use]
    pub fn start(original: Arc<Original>, roots: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::<Mutex<Seen>>::default();
        let thread = std::thread::spawn({
            let (stop, seen) = (stop.clone(), seen.clone());
            move || {
                for root in roots.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let checked = original.check_volume(root);
                    locked(&seen).note(root, checked);
                    std::thread::sleep(PAUSE);
                }
            }
        });
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// An error when anything wrong was ever seen.
    pub fn verdict(&self) -> Result<()> {
        match &locked(&self.seen).wrong {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(()),
        }
    }

    /// How often a published model was read whole.
    #[must_use]
    pub fn checks(&self) -> u64 {
        locked(&self.seen).checks
    }
}

impl Seen {
    fn note(&mut self, root: &Path, checked: Result<bool>) {
        let wrong = match checked {
            Ok(true) => {
                self.published.insert(root.to_owned());
                self.checks += 1;
                return;
            }
            Ok(false) if self.published.contains(root) => "what was published is gone".to_owned(),
            Ok(false) => return,
            Err(error) => format!("{error:#}"),
        };
        let wrong = format!("a pod on {} saw: {wrong}", root.display());
        self.wrong.get_or_insert(wrong);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only when a lock is poisoned, and then the verdict says nothing good either.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn node() -> (tempfile::TempDir, Original) {
        let original = Original {
            files: vec![
                ("a".to_owned(), b"1234".to_vec()),
                ("b".to_owned(), Vec::new()),
            ],
            commit: "c0ffee".to_owned(),
        };
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volumes/model");
        for directory in [
            volume.join("files"),
            original.snapshot_of(&volume.join("hub")),
            original.snapshot_of(&root.path().join("hub")),
        ] {
            fs::create_dir_all(&directory).unwrap();
            for (name, bytes) in &original.files {
                fs::write(directory.join(name), bytes).unwrap();
            }
        }
        fs::create_dir_all(root.path().join("models/bench")).unwrap();
        (root, original)
    }

    fn publish(root: &Path) {
        symlink("../../volumes/model", root.join("models/bench/model")).unwrap();
    }

    #[test]
    fn what_is_whole_and_right_passes() {
        let (root, original) = node();
        assert!(!original.check_volume(root.path()).unwrap());
        assert!(original.check_all(root.path()).is_err(), "not published");
        publish(root.path());
        assert!(original.check_volume(root.path()).unwrap());
        original.check_all(root.path()).unwrap();
    }

    #[test]
    fn wrong_missing_and_additional_bytes_are_found_in_every_form() {
        for directory in [
            "volumes/model/files",
            "volumes/model/hub/models--bench--model/snapshots/c0ffee",
        ] {
            let break_it: [fn(&Path); 4] = [
                |directory| fs::write(directory.join("a"), "1244").unwrap(),
                |directory| fs::write(directory.join("a"), "123").unwrap(),
                |directory| fs::remove_file(directory.join("b")).unwrap(),
                |directory| fs::write(directory.join("more"), "").unwrap(),
            ];
            for broken in break_it {
                let (root, original) = node();
                publish(root.path());
                broken(&root.path().join(directory));
                assert!(original.check_volume(root.path()).is_err());
            }
        }
    }

    #[test]
    fn what_was_published_must_stay() {
        let mut seen = Seen::default();
        let root = Path::new("/node");
        seen.note(root, Ok(false));
        assert_eq!(seen.wrong, None);
        seen.note(root, Ok(true));
        assert_eq!(seen.wrong, None);
        seen.note(root, Ok(false));
        assert!(seen.wrong.unwrap().contains("gone"));
    }
}
