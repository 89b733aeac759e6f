//! Which of the faults that were set happen to a request.

use std::net::IpAddr;
use std::sync::Mutex;

use crate::admin::{Effect, Endpoint, Fault, FaultStatus};
use crate::locks::lock;

/// What faults can be aimed at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its kind.
    pub endpoint: Endpoint,
    /// The repository, when there is one in it.
    pub repository: Option<&'a str>,
    /// The file, when there is one in it.
    pub path: Option<&'a str>,
    /// Who asks.
    pub client: IpAddr,
    /// `GET`, `HEAD`, …
    pub method: &'a str,
    /// Whether it has a `Range`.
    pub ranged: bool,
}

/// The faults that are set.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    matched: u64,
    happened: u64,
}

impl Faults {
    /// Replaces all.
    pub fn set(&self, faults: Vec<Fault>) {
        *lock(&self.armed) = faults.into_iter().map(Armed::new).collect();
    }

    /// Adds one.
    pub fn add(&self, fault: Fault) {
        lock(&self.armed).push(Armed::new(fault));
    }

    /// All with how often each happened.
    #[must_use]
    pub fn status(&self) -> Vec<FaultStatus> {
        let status = |armed: &Armed| FaultStatus {
            fault: armed.fault.clone(),
            happened: armed.happened,
        };
        lock(&self.armed).iter().map(status).collect()
    }

    /// What happens to this request, in the order in which the faults were set.
    pub fn strike(&self, request: &Request<'_>) -> Vec<Effect> {
        let mut armed = lock(&self.armed);
        armed
            .iter_mut()
            .filter_map(|armed| armed.strike(request))
            .collect()
    }
}

impl Armed {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            matched: 0,
            happened: 0,
        }
    }

    fn strike(&mut self, request: &Request<'_>) -> Option<Effect> {
        let fault = &self.fault;
        let aimed = (fault.endpoints.is_empty() || fault.endpoints.contains(&request.endpoint))
            && fault
                .repository
                .as_deref()
                .is_none_or(|name| Some(name) == request.repository)
            && fault
                .path
                .as_deref()
                .is_none_or(|pattern| request.path.is_some_and(|path| matches(pattern, path)))
            && fault.client.is_none_or(|client| client == request.client)
            && fault
                .method
                .as_deref()
                .is_none_or(|method| method.eq_ignore_ascii_case(request.method))
            && fault.ranged.is_none_or(|ranged| ranged == request.ranged);
        if !aimed || fault.times.is_some_and(|times| self.happened >= times) {
            return None;
        }
        self.matched += 1;
        if self.matched <= fault.skip
            || (fault.probability < 1.0 && rand::random::<f64>() >= fault.probability)
        {
            return None;
        }
        self.happened += 1;
        Some(fault.effect.clone())
    }
}

/// Whether `text` matches a pattern in which `*` stands for any characters.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter(|&at| rest.is_char_boundary(at))
        .any(|at| matches(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> Request<'_> {
        Request {
            endpoint: Endpoint::Cdn,
            repository: Some("org/a"),
            path: Some(path),
            client: [127, 0, 0, 1].into(),
            method: "GET",
            ranged: true,
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*.bin", "dir/x.bin", true),
            ("dir/*/é*", "dir/x/été", true),
            ("a*b*c", "axbyb", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn faults_are_skipped_counted_and_end() {
        let faults = Faults::default();
        faults.add(
            Fault::new(Effect::IgnoreRange)
                .on(Endpoint::Cdn)
                .path("*.bin")
                .after(1)
                .times(2),
        );
        let strikes = |path| faults.strike(&request(path)).len();
        assert_eq!(
            [
                strikes("a.bin"),
                strikes("b.bin"),
                strikes("a.txt"),
                strikes("c.bin"),
                strikes("d.bin")
            ],
            [0, 1, 0, 1, 0]
        );
        assert_eq!(faults.status()[0].happened, 2);
        faults.set(Vec::new());
        assert!(faults.status().is_empty());
    }

    #[test]
    fn aim() {
        let hits = |change: fn(&mut Fault)| {
            let mut fault = Fault::new(Effect::IgnoreRange);
            change(&mut fault);
            let faults = Faults::default();
            faults.add(fault);
            !faults.strike(&request("x")).is_empty()
        };
        assert!(hits(|_| ()));
        assert!(hits(|fault| fault.client = Some([127, 0, 0, 1].into())));
        assert!(!hits(|fault| fault.client = Some([127, 0, 0, 2].into())));
        assert!(!hits(|fault| fault.repository = Some("org/b".into())));
        assert!(!hits(|fault| fault.method = Some("HEAD".into())));
        assert!(!hits(|fault| fault.ranged = Some(false)));
        assert!(!hits(|fault| fault.endpoints = vec![Endpoint::Tree]));
        assert!(!hits(|fault| fault.probability = 0.0));
    }
}
