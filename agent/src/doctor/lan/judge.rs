//! What it means that somebody was heard by multicast or broadcast, or nobody.

use std::collections::BTreeSet;

use modelcache_swarm::discovery::refusal::Refusal;

use super::super::finding::Finding;
use super::{Heard, Way};

/// What it means.
#[must_use]
pub fn judge(heard: &Heard, port: u16) -> Vec<Finding> {
    if heard.interfaces.is_empty() {
        let why = "no interface to a network of other machines: a pod network? The coordinator finds peers there";
        return ["multicast", "broadcast", "announcements"]
            .map(|check| Finding::skipped(check, why))
            .into();
    }
    vec![
        multicast(heard, port),
        broadcast(heard, port),
        refused(heard),
    ]
}

fn names(set: Option<&BTreeSet<String>>) -> String {
    let names: Vec<&str> = set.into_iter().flatten().map(String::as_str).collect();
    names.join(", ")
}

/// Where own datagrams came back, in words, and whether they did anywhere.
fn own(heard: &Heard, way: Way) -> (String, bool) {
    let back = heard.own.get(&way);
    let back = back.filter(|interfaces| !interfaces.is_empty());
    match back {
        Some(_) => (format!("own datagrams come back on {}", names(back)), true),
        None => ("own datagrams do not come back".to_owned(), false),
    }
}

/// Who was heard, in words.
fn others(heard: &Heard, way: Way) -> Option<String> {
    let nodes = heard.others.get(&way).filter(|nodes| !nodes.is_empty())?;
    let some = nodes.iter().take(8);
    let mut words: Vec<String> = some
        .map(|(node, interfaces)| format!("{} on {}", node.as_str(), names(Some(interfaces))))
        .collect();
    if nodes.len() > words.len() {
        words.push(format!("{} more", nodes.len() - words.len()));
    }
    Some(format!("heard {}", words.join(", ")))
}

fn multicast(heard: &Heard, port: u16) -> Finding {
    let check = "multicast";
    let (own, back) = own(heard, Way::Multicast);
    let listened = format!("on {}", names(Some(&heard.interfaces)));
    match others(heard, Way::Multicast) {
        Some(others) if back => Finding::ok(check, format!("{others}; {own}")),
        Some(others) => Finding::warn(
            check,
            format!("{others}; {own}"),
            "this machine's own rules drop what it sends; others may not hear it",
        ),
        None if others(heard, Way::Broadcast).is_some() => Finding::fail(
            check,
            format!("nobody {listened}, though others are there and broadcast; {own}"),
            "the network drops multicast between machines: on switches, IGMP snooping wants a querier; broadcast is used instead",
        ),
        None if back => Finding::warn(
            check,
            format!("nobody {listened}; {own}, which shows this machine only"),
            "do other nodes run with --announce? Then the network drops multicast and broadcast",
        ),
        None => Finding::fail(
            check,
            format!("nobody {listened}; {own}"),
            &format!("this machine's firewall drops UDP port {port}: open it"),
        ),
    }
}

fn broadcast(heard: &Heard, port: u16) -> Finding {
    let check = "broadcast";
    if heard.broadcasting.is_empty() {
        return Finding::skipped(check, "no interface has a broadcast address");
    }
    let (own, back) = own(heard, Way::Broadcast);
    if let Some(others) = others(heard, Way::Broadcast) {
        return Finding::ok(check, format!("{others}; {own}"));
    }
    if others(heard, Way::Multicast).is_some() {
        return Finding::warn(
            check,
            format!("nobody broadcasts, though asked to; {own}"),
            "multicast is enough, and there is nothing to fall back on; listen for longer to be sure",
        );
    }
    if back {
        return Finding::warn(
            check,
            format!("nobody; {own}, which shows this machine only"),
            "do other nodes run with --announce? Then the network drops broadcast",
        );
    }
    Finding::fail(
        check,
        format!("nobody; {own}"),
        &format!("this machine's firewall drops UDP port {port}: open it"),
    )
}

fn refused(heard: &Heard) -> Finding {
    let check = "announcements";
    let counted = heard.refused.values();
    // Machines with hali are nothing to worry about.
    let counted: Vec<_> = counted
        .filter(|(_, reason)| *reason != Refusal::Hali)
        .collect();
    if counted.is_empty() {
        return Finding::ok(check, "none refused");
    }
    let seen = counted
        .iter()
        .map(|(count, reason)| format!("{count} {reason}"));
    let advice = counted
        .iter()
        .map(|(_, reason)| format!("{reason}: {}", reason.advice()));
    Finding::warn(
        check,
        format!("refused: {}", seen.collect::<Vec<_>>().join(", ")),
        &advice.collect::<Vec<_>>().join("; "),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use modelcache_swarm::discovery::announcement::NodeName;

    use super::super::super::finding::Verdict;
    use super::super::MAX_REMEMBERED;
    use super::*;

    fn heard(own: &[Way], others: &[Way]) -> Heard {
        let eth0 = || BTreeSet::from(["eth0".to_owned()]);
        let node = NodeName::new("node-b").unwrap();
        Heard {
            interfaces: eth0(),
            broadcasting: eth0(),
            own: own.iter().map(|way| (*way, eth0())).collect(),
            others: others
                .iter()
                .map(|way| (*way, BTreeMap::from([(node.clone(), eth0())])))
                .collect(),
            ..Heard::default()
        }
    }

    /// One letter a check: multicast, broadcast, announcements.
    fn verdicts(heard: &Heard) -> String {
        let findings = judge(heard, 4269);
        let letter = |finding: &Finding| match finding.verdict {
            Verdict::Ok => 'o',
            Verdict::Warn(_) => 'w',
            Verdict::Fail(_) => 'f',
            Verdict::Skipped => 's',
        };
        findings.iter().map(letter).collect()
    }

    #[test]
    fn hearing_oneself_is_not_enough() {
        let both = [Way::Multicast, Way::Broadcast];
        assert_eq!(verdicts(&heard(&both, &both)), "ooo");
        assert_eq!(verdicts(&heard(&both, &[])), "wwo");
        assert_eq!(verdicts(&heard(&[], &[])), "ffo");
        assert_eq!(verdicts(&heard(&both, &[Way::Broadcast])), "foo");
        assert_eq!(verdicts(&heard(&both, &[Way::Multicast])), "owo");
        assert_eq!(verdicts(&heard(&[], &both)), "woo");
        assert_eq!(verdicts(&Heard::default()), "sss");
    }

    #[test]
    fn who_is_heard_where_is_said() {
        let heard = heard(&[Way::Multicast], &[Way::Multicast]);
        let seen = &judge(&heard, 4269)[0].seen;
        assert_eq!(
            seen,
            "heard node-b on eth0; own datagrams come back on eth0"
        );
    }

    #[test]
    fn strangers_are_remembered_up_to_a_number() {
        let mut heard = heard(&[], &[]);
        for host in 0..u32::try_from(2 * MAX_REMEMBERED).unwrap() {
            heard.refuse(
                Refusal::UnknownKey,
                std::net::Ipv4Addr::from_bits(host).into(),
            );
        }
        assert_eq!(heard.strangers().len(), MAX_REMEMBERED);
        assert_eq!(verdicts(&heard), "ffw");
    }

    #[test]
    fn machines_with_hali_are_no_trouble() {
        let mut heard = heard(&[], &[]);
        heard.refuse(Refusal::Hali, [10, 0, 0, 1].into());
        assert_eq!(verdicts(&heard), "ffo");
        heard.refuse(Refusal::Malformed, [10, 0, 0, 1].into());
        assert_eq!(verdicts(&heard), "ffw");
    }
}
