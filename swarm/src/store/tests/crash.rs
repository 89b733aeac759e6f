//! Kills and power cuts at every single change of the disk.

use std::cell::Cell;
use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use super::foreign;
use super::power::{Durable, World, within};
use super::{Catalogue, audit_held, bytes, fast_directory, fill_with, model, odd_files};
use crate::store::{Source, Store, StoreError, Verdict};

/// Two models of three commits that share contents, one of them with other patterns in the same repository.
fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.add(("first", "org/name", "main"), 'a', &odd_files());
    catalogue.add(
        ("second", "org/name", "dev/x"),
        'a',
        &[
            ("model.bin", bytes(2, 3000)),
            ("more/file.txt", bytes(9, 10)),
        ],
    );
    // More small files in one segment than are synced one by one.
    let names: Vec<String> = (0..20).map(|n| format!("small/{n}")).collect();
    let mut files = vec![("x.bin", bytes(5, 1500)), ("y.bin", bytes(8, 2000))];
    files.extend(
        names
            .iter()
            .zip(20..)
            .map(|(name, seed)| (name.as_str(), bytes(seed, 9))),
    );
    catalogue.add(("third", "other", "main"), 'c', &files);
    catalogue
}

thread_local! {
    /// How many contents came from a stranger.
    static STRANGERS: Cell<u32> = const { Cell::new(0) };
}

/// The life of a store: three snapshots, one wrong segment, one content from a stranger, publishing. Can be repeated on what an earlier try left.
fn live(root: &Path, catalogue: &Catalogue, honest: &Cell<bool>) -> Result<(), StoreError> {
    let store = Store::open(root)?;
    for (number, snapshot) in catalogue.snapshots.iter().enumerate() {
        let one = store.snapshot(Arc::clone(snapshot))?;
        audit_held(&one);
        let large = one.segments().iter().find(|s| s.extents[0].offset == 1024);
        if let Some(segment) = large
            && !honest.replace(true)
        {
            let mut data = catalogue.segment(segment);
            data[100] ^= 1;
            fill_with(&one, segment.index, &data, Source::Origin)?;
            for segment in 0..u32::try_from(one.segments().len()).unwrap() {
                if !one.is_held(segment) {
                    catalogue.fill(&one, segment, Source::Origin)?;
                }
            }
            assert!(matches!(one.verify()?[0], Verdict::Corrupt { .. }));
            audit_held(&one);
        }
        // A part of it came in the ordinary way before.
        let mut second_parts = one
            .segments()
            .iter()
            .filter(|s| s.extents[0].offset == 1024);
        let part = second_parts.find(|s| one.lacks(&s.extents[0].blob));
        if let Some((index, blob)) = part.map(|s| (s.index, s.extents[0].blob))
            && snapshot.name == "third"
        {
            if !one.is_held(index) {
                catalogue.fill(&one, index, Source::Peer)?;
            }
            foreign::bring(catalogue, &one, &blob)?;
            STRANGERS.set(STRANGERS.get() + 1);
        }
        catalogue.finish(&one, &model(&format!("m{number}")))?;
        audit_held(&one);
        assert!(one.published());
    }
    Ok(())
}

fn recover(root: &Path, catalogue: &Catalogue, what: &str) {
    catalogue.audit(root);
    live(root, catalogue, &Cell::new(true)).unwrap_or_else(|error| panic!("{what}: {error}"));
    catalogue.audit(root);
    for number in 0..3 {
        let link = root.join(format!("models/cache/m{number}/files"));
        assert!(link.is_dir(), "{what}");
    }
}

#[test]
fn a_reader_sees_nothing_wrong_at_any_step() {
    let root = fast_directory();
    let catalogue = Arc::new(catalogue());
    let (seen, path) = (Arc::clone(&catalogue), root.path().to_path_buf());
    let world = World {
        reader: Some(Box::new(move || seen.audit(&path))),
        ..World::default()
    };
    let (result, world) = within(world, || live(root.path(), &catalogue, &Cell::new(false)));
    result.unwrap();
    assert_eq!(STRANGERS.get(), 1);
    assert!(world.steps > 200, "{} steps", world.steps);
    catalogue.audit(root.path());
}

#[test]
fn killed_before_any_step_it_goes_on() {
    let catalogue = catalogue();
    for stop in 1.. {
        let root = fast_directory();
        let world = World {
            stop_at: Some(stop),
            ..World::default()
        };
        let (result, _) = within(world, || live(root.path(), &catalogue, &Cell::new(false)));
        recover(
            root.path(),
            &catalogue,
            &format!("killed before step {stop}"),
        );
        if result.is_ok() {
            return;
        }
    }
}

#[test]
fn without_power_before_any_step_it_goes_on() {
    let catalogue = catalogue();
    for stop in 1.. {
        let root = fast_directory();
        let world = World {
            stop_at: Some(stop),
            durable: Some(Durable::new(root.path())),
            ..World::default()
        };
        let (result, world) = within(world, || live(root.path(), &catalogue, &Cell::new(false)));
        let after = fast_directory();
        world.durable.unwrap().restore(after.path());
        recover(
            after.path(),
            &catalogue,
            &format!("power cut before step {stop}"),
        );
        if result.is_ok() {
            let models = after.path().join("models/cache");
            assert_eq!(super::names(&models), ["m0", "m1", "m2"]);
            return;
        }
    }
}

#[test]
fn what_callers_were_told_survives_a_power_cut() {
    let mut catalogue = Catalogue::default();
    let snapshot = catalogue.add(("odd", "org/odd", "main"), 'd', &odd_files());
    let work = |root: &Path, actions: u32| {
        let store = Store::open(root).unwrap();
        let one = store.snapshot(Arc::clone(&snapshot)).unwrap();
        let segments = u32::try_from(one.segments().len()).unwrap();
        for action in 0..actions {
            match action.cmp(&segments) {
                Ordering::Less => catalogue.fill(&one, action, Source::Origin).unwrap(),
                Ordering::Equal => drop(one.verify().unwrap()),
                Ordering::Greater => one.publish(&model("m")).unwrap(),
            }
        }
        let told = (one.held(), one.progress(), one.published(), one.is_whole());
        (told, actions > segments + 1)
    };
    for actions in 0.. {
        let root = fast_directory();
        let world = World {
            durable: Some(Durable::new(root.path())),
            ..World::default()
        };
        let ((told, last), world) = within(world, || work(root.path(), actions));
        let after = fast_directory();
        world.durable.unwrap().restore(after.path());
        catalogue.audit(after.path());
        let (found, _) = work(after.path(), 0);
        assert_eq!(found, told, "after {actions} actions");
        let link = after.path().join("models/cache/m/files/model.bin");
        assert_eq!(link.is_file(), last);
        if last {
            assert!(told.2 && told.3);
            return;
        }
    }
}
