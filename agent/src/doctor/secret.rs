//! The cluster's secret: whether this node can read it, and whether it is the others'. Only names of keys are shown,
//! which are derived from them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use modelcache_swarm::link::LinkError;
use modelcache_swarm::secret::{KeyId, Keyring, SecretError};

use super::finding::Finding;

/// What a handshake with one other member showed of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Both ends proved to have this key.
    Shared(KeyId),
    /// The other end has no key of ours.
    Different,
}

impl Proof {
    /// What a failed handshake shows, if anything.
    #[must_use]
    pub fn of_failure(error: &LinkError) -> Option<Self> {
        match error {
            LinkError::UnknownKey | LinkError::WrongKey => Some(Self::Different),
            _ => None,
        }
    }
}

/// Whether the file can be used.
#[must_use]
pub fn judge_file(path: &str, ring: Result<&Keyring, &SecretError>) -> Finding {
    let check = "secret, file";
    match ring {
        Ok(ring) => {
            let names: Vec<String> = ring.keys().map(|key| key.id().to_string()).collect();
            let names = names.join(" and before it ");
            Finding::ok(check, format!("{path} has key {names}"))
        }
        // The error says what to do.
        Err(error) => Finding::fail(
            check,
            error.to_string(),
            "without it nobody is believed and nobody lets this node in",
        ),
    }
}

/// Whether the others have the same: `proofs` by whose they are, and who announces himself with a key unknown here.
#[must_use]
pub fn judge_equal(
    ring: &Keyring,
    proofs: &[(String, Proof)],
    members_heard: usize,
    strangers: &BTreeSet<IpAddr>,
) -> Finding {
    let check = "secret, equal";
    let copy =
        "copy the Secret's entry 'current' here again, or wait a minute if it was just rotated";
    let with = |wanted: &dyn Fn(&Proof) -> bool| {
        let names = proofs.iter().filter(|(_, proof)| wanted(proof));
        names.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    let others = with(&|proof| *proof == Proof::Different);
    if !others.is_empty() {
        let seen = format!("no key in common with {}", others.join(", "));
        return Finding::fail(check, seen, copy);
    }
    let current = ring.current().id();
    let old = with(&|proof| matches!(proof, Proof::Shared(key) if *key != current));
    if !old.is_empty() {
        let seen = format!("{} know only the key before {current}", old.join(", "));
        return Finding::warn(
            check,
            seen,
            "normal for a minute while keys change; then look why the new one does not arrive there",
        );
    }
    let heard = strangers.iter().map(IpAddr::to_string);
    let heard = heard.collect::<Vec<_>>().join(", ");
    let proven = proofs.len();
    if proven + members_heard == 0 {
        if strangers.is_empty() {
            return Finding::skipped(check, "nobody was there to compare it with");
        }
        let seen = format!("all that is heard is signed with other keys: {heard}");
        return Finding::fail(check, seen, copy);
    }
    if !strangers.is_empty() {
        return Finding::warn(
            check,
            format!("key {current} is shared, but {heard} use another"),
            "another cluster is on this network: give it another --lan-group; or these nodes miss the Secret",
        );
    }
    Finding::ok(
        check,
        format!(
            "key {current}: proven in {proven} handshakes, and by signatures of {members_heard} nodes"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use modelcache_swarm::secret::Key;

    use super::super::finding::Verdict;
    use super::*;

    fn key(number: u8) -> Key {
        Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
    }

    fn found(proofs: &[Proof], members: usize, strangers: &[u8]) -> Finding {
        let ring = Keyring::new(key(1), Some(key(2)));
        let proofs: Vec<_> = proofs
            .iter()
            .map(|proof| ("node-b".to_owned(), proof.clone()))
            .collect();
        let strangers = strangers.iter().map(|last| [10, 0, 0, *last].into());
        judge_equal(&ring, &proofs, members, &strangers.collect())
    }

    #[test]
    fn a_secret_is_equal_when_somebody_proves_it() {
        let shared = Proof::Shared(key(1).id());
        assert_eq!(
            found(std::slice::from_ref(&shared), 0, &[]).verdict,
            Verdict::Ok
        );
        assert_eq!(found(&[], 1, &[]).verdict, Verdict::Ok);
        assert_eq!(found(&[], 0, &[]).verdict, Verdict::Skipped);
        for finding in [
            found(&[shared.clone(), Proof::Different], 3, &[]),
            found(&[], 0, &[9]),
        ] {
            assert!(matches!(finding.verdict, Verdict::Fail(_)), "{finding:?}");
        }
        // Another cluster beside ours, and a rotation that is under way.
        let before = Proof::Shared(key(2).id());
        for finding in [found(&[shared], 0, &[9]), found(&[before], 0, &[])] {
            assert!(matches!(finding.verdict, Verdict::Warn(_)), "{finding:?}");
        }
    }

    #[test]
    fn names_of_keys_are_shown_and_nothing_else_of_them() {
        let ring = Keyring::new(key(1), Some(key(2)));
        let finding = judge_file("/key", Ok(&ring));
        for shown in [key(1), key(2)] {
            assert!(finding.seen.contains(&shown.id().to_string()));
        }
        assert!(!finding.seen.contains("0101") && !finding.seen.contains("0202"));
        let error = Keyring::load(Path::new("/nowhere")).unwrap_err();
        let finding = judge_file("/nowhere", Err(&error));
        assert!(matches!(finding.verdict, Verdict::Fail(_)), "{finding:?}");
    }
}
