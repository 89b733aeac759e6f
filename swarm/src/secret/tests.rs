use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEW: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn ids(ring: &Keyring) -> Vec<KeyId> {
    ring.keys().map(|key| key.id()).collect()
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A Secret as the kubelet mounts it; `generation` is the directory that `..data` names.
fn mount(dir: &Path, generation: &str, files: &[(&str, &str)]) {
    let real = dir.join(generation);
    fs::create_dir(&real).unwrap();
    for (name, text) in files {
        write(&real.join(name), text, 0o440);
        let _ = fs::remove_file(dir.join(name));
        symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
    }
    symlink(generation, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

/// Members of other versions and other programs must derive the same: computed with an independent implementation.
#[test]
fn what_is_derived_never_changes() {
    let key = key(OLD);
    assert_eq!(key.id().to_string(), "41326ed9e03750f7");
    assert_eq!(
        hex::encode(key.derive(Purpose::PeerLink)),
        "c8cf98fa7969d5a40882954c573422248bb591ebf4984409392c352b6b4dd5a9"
    );
    assert_eq!(
        hex::encode(key.derive(Purpose::Coordination)),
        "920557dfdeaaae271fed7604bd5b777f75803e53e87482d8b289ed9126090b89"
    );
    assert_eq!(
        hex::encode(key.derive(Purpose::Announcement)),
        "575ea85d62e771f405711357e13a26bcb79d049e8af13fa93a964a5a6a572807"
    );
    assert_eq!(
        hex::encode(key.derive(Purpose::Tracker)),
        "42d47a14c5fdc1bfccedca45689f6a07b38c6b63ccb684e0fcc7ba160ae1ec69"
    );
}

#[test]
fn white_space_around_a_key_does_not_matter_and_anything_else_does() {
    assert_eq!(key(&format!(" {OLD}\n")).id(), key(OLD).id());
    assert_eq!(key(&OLD.to_uppercase()).id(), key(OLD).id());
    for bad in [
        "",
        "00",
        &OLD[1..],
        &format!("{OLD}00"),
        &OLD.replace('0', "g"),
    ] {
        assert_eq!(Key::parse(bad).unwrap_err(), KeyError::Malformed, "{bad}");
    }
    assert_eq!(Key::parse(&"00".repeat(32)).unwrap_err(), KeyError::Weak);
}

#[test]
fn nothing_of_a_key_is_shown() {
    let ring = Keyring::new(key(OLD), Some(key(NEW)));
    let shown = format!("{ring:?} {:?}", ring.current());
    assert!(shown.contains(&key(OLD).id().to_string()), "{shown}");
    for purpose in [
        Purpose::PeerLink,
        Purpose::Coordination,
        Purpose::Announcement,
        Purpose::Tracker,
    ] {
        assert!(!shown.contains(&hex::encode(key(OLD).derive(purpose))));
    }
    assert!(
        !shown.contains(&OLD[..8]) && !shown.contains("[0, 1,"),
        "{shown}"
    );
}

#[test]
fn a_ring_accepts_its_two_keys_and_no_other() {
    let ring = Keyring::new(key(NEW), Some(key(OLD)));
    assert_eq!(ring.current().id(), key(NEW).id());
    assert_eq!(ids(&ring), [key(NEW).id(), key(OLD).id()]);
    assert!(ring.by_id(key(OLD).id()).is_some());
    assert!(Keyring::new(key(NEW), None).by_id(key(OLD).id()).is_none());
    // The same key twice is one key.
    assert_eq!(ids(&Keyring::new(key(NEW), Some(key(NEW)))).len(), 1);
}

#[test]
fn files_must_be_ours_alone() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(CURRENT), NEW, 0o600);
    assert_eq!(ids(&Keyring::load(dir.path()).unwrap()), [key(NEW).id()]);
    write(&dir.path().join(PREVIOUS), OLD, 0o400);
    assert_eq!(
        ids(&Keyring::load(dir.path()).unwrap()),
        [key(NEW).id(), key(OLD).id()]
    );
    // One file without a directory.
    assert_eq!(
        ids(&Keyring::load(&dir.path().join(PREVIOUS)).unwrap()),
        [key(OLD).id()]
    );
    for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
        write(&dir.path().join(PREVIOUS), OLD, mode);
        let error = Keyring::load(dir.path()).unwrap_err();
        assert!(
            matches!(error, SecretError::Exposed { .. }),
            "{mode:o}: {error}"
        );
        assert!(
            error.to_string().contains(&format!("{mode:04o}")),
            "{error}"
        );
    }
}

#[test]
fn a_mounted_secret_is_guarded_by_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    mount(dir.path(), "..1", &[(CURRENT, OLD)]);
    assert_eq!(ids(&Keyring::load(dir.path()).unwrap()), [key(OLD).id()]);
    mount(dir.path(), "..2", &[(CURRENT, NEW), (PREVIOUS, OLD)]);
    assert_eq!(
        ids(&Keyring::load(dir.path()).unwrap()),
        [key(NEW).id(), key(OLD).id()]
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_without_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Keyring::load(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("current"), "{missing}");
    for text in ["feedface", "feedface\u{fffd}", &"feedface".repeat(200)] {
        write(&dir.path().join(CURRENT), text, 0o600);
        let error = Keyring::load(dir.path()).unwrap_err();
        assert!(matches!(error, SecretError::Malformed { .. }), "{error}");
        assert!(
            !format!("{error} {error:?}").contains("feedface"),
            "{error}"
        );
    }
    fs::write(dir.path().join(CURRENT), [0xff; 64]).unwrap();
    assert!(matches!(
        Keyring::load(dir.path()),
        Err(SecretError::Malformed { .. })
    ));
}

#[tokio::test]
async fn a_changed_secret_is_followed_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    mount(dir.path(), "..1", &[(CURRENT, OLD)]);
    let mut keys = Keys::follow(dir.path().to_owned()).unwrap();
    assert_eq!(ids(&keys.now()), [key(OLD).id()]);
    mount(dir.path(), "..2", &[(CURRENT, "broken")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ids(&keys.now()), [key(OLD).id()]);
    mount(dir.path(), "..3", &[(CURRENT, NEW), (PREVIOUS, OLD)]);
    keys.changed().await;
    assert_eq!(ids(&keys.now()), [key(NEW).id(), key(OLD).id()]);
}

#[tokio::test]
async fn a_key_is_replaced_and_later_no_longer_valid() {
    let (setter, keys) = Keys::set_by_hand(Keyring::new(key(OLD), None));
    let pending = |future: &mut (dyn Future<Output = ()> + Unpin)| {
        futures_util::FutureExt::now_or_never(future).is_none()
    };
    let mut replaced = Box::pin(keys.replaced());
    let mut retired = Box::pin(keys.retired(key(OLD).id()));
    assert!(pending(&mut replaced) && pending(&mut retired));
    setter.set(Keyring::new(key(NEW), Some(key(OLD))));
    replaced.await;
    assert!(pending(&mut retired) && pending(&mut Box::pin(keys.replaced())));
    setter.set(Keyring::new(key(NEW), None));
    retired.await;
    keys.retired(key(OLD).id()).await;
    drop(setter);
    assert!(pending(&mut Box::pin(keys.retired(key(NEW).id()))));
}

proptest! {
    #[test]
    fn any_two_secrets_share_nothing(one: [u8; 32], other: [u8; 32]) {
        let keys = [one, other].map(|secret| Key::parse(&hex::encode(secret)));
        prop_assume!(one != other && keys.iter().all(Result::is_ok));
        let [Ok(one), Ok(other)] = keys else { unreachable!() };
        prop_assert_ne!(one.id(), other.id());
        let all = [Purpose::PeerLink, Purpose::Coordination, Purpose::Announcement, Purpose::Tracker];
        let mut derived: Vec<_> = all.iter().flat_map(|purpose| [*one.derive(*purpose), *other.derive(*purpose)]).collect();
        derived.sort_unstable();
        derived.dedup();
        prop_assert_eq!(derived.len(), 8);
    }

    #[test]
    fn anything_may_stand_in_a_file(text in ".{0,300}") {
        if let Ok(key) = Key::parse(&text) {
            prop_assert!(text.trim().len() == 64 && key.id().to_string().len() == 16);
        }
    }
}
