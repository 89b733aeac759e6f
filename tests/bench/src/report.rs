//! What the runs came to: medians with their spread, as JSON and as a table.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::case::Case;
use crate::float;
use crate::sample::Sample;
use crate::team::Team;

/// A median and what it lies between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these; none of none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(*values.get(middle - 1)?, upper)
        } else {
            upper
        };
        Some(Self {
            median,
            least: *values.first()?,
            most: *values.last()?,
        })
    }

    fn json(self, digits: i32) -> Value {
        json!([round(self.least, digits), round(self.most, digits)])
    }
}

/// The runs of one team.
pub struct Entry {
    /// Who.
    pub team: Team,
    /// Those that ended well.
    pub samples: Vec<Sample>,
    /// What went wrong in the others.
    pub failures: Vec<String>,
}

impl Entry {
    fn spread(&self, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(of))
    }

    fn seconds(&self) -> Option<Spread> {
        self.spread(|sample| sample.seconds)
    }

    /// What else the case is about, by name.
    fn extra(&self) -> Vec<(&'static str, Spread)> {
        let first = self.samples.first().map(|one| one.figures.as_slice());
        let names = first.unwrap_or_default().iter().map(|(name, _)| *name);
        let of = |name| {
            let figures = self.samples.iter().flat_map(|one| &one.figures);
            Spread::of(figures.filter(|one| one.0 == name).map(|one| one.1))
        };
        names.filter_map(|name| Some((name, of(name)?))).collect()
    }
}

/// A case with our runs and those of the others.
pub struct Outcome<'a> {
    /// The case.
    pub case: &'a Case,
    /// Ours first.
    pub entries: Vec<Entry>,
}

impl Outcome<'_> {
    /// The best of the others: the one that was quickest.
    fn best_peer(&self) -> Option<&Entry> {
        let peers = self.entries.iter().skip(1);
        peers
            .filter(|peer| peer.seconds().is_some())
            .min_by(|a, b| {
                let median = |entry: &Entry| entry.seconds().map_or(f64::MAX, |one| one.median);
                median(a).total_cmp(&median(b))
            })
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let bound = self.case.bound_seconds();
        let mut value = json!({
            "case": self.case.name,
            "nodes": self.case.nodes,
            "bytes": self.case.bytes(),
            "slower": self.case.slower,
            "smaller": self.case.smaller,
            "boundSeconds": bound.map(|bound| round(bound, 3)),
        });
        if let Some(ours) = self.entries.first() {
            merge(&mut value, self.figures(ours));
        }
        let peer = self.best_peer();
        merge(
            &mut value,
            json!({
                "peer": peer.map(|peer| peer.team.name()),
                "peerRatio": peer.and_then(|peer| self.ratio(peer)).map(|one| round(one.median, 3)),
                "peerCopies": peer.and_then(|peer| peer.spread(|one| one.copies)).map(|one| round(one.median, 3)),
                "peerCpuSecondsPerGB":
                    peer.and_then(|peer| peer.spread(|one| one.cpu_seconds_per_gb)).map(|one| round(one.median, 2)),
            }),
        );
        let others = self.entries.iter().skip(1).map(|entry| {
            let mut one = json!({"name": entry.team.name()});
            merge(&mut one, self.figures(entry));
            one
        });
        merge(&mut value, json!({"peers": others.collect::<Vec<_>>()}));
        value
    }

    fn ratio(&self, entry: &Entry) -> Option<Spread> {
        let bound = self.case.bound_seconds()?;
        entry.spread(|sample| sample.seconds / bound)
    }

    fn figures(&self, entry: &Entry) -> Value {
        let seconds = entry.seconds();
        let ratio = self.ratio(entry);
        let copies = entry.spread(|sample| sample.copies);
        let cpu = entry.spread(|sample| sample.cpu_seconds_per_gb);
        let median = |spread: Option<Spread>, digits| spread.map(|one| round(one.median, digits));
        let mut spread = json!({
            "seconds": seconds.map(|one| one.json(2)),
            "ratio": ratio.map(|one| one.json(3)),
            "originCopies": copies.map(|one| one.json(3)),
            "cpuSecondsPerGB": cpu.map(|one| one.json(2)),
        });
        let mut value = json!({
            "seconds": median(seconds, 2),
            "ratio": median(ratio, 3),
            "originCopies": median(copies, 3),
            "cpuSecondsPerGB": median(cpu, 2),
            "peakResidentBytes": entry.samples.iter().map(|sample| sample.peak_resident).max(),
            "ownLoad": median(entry.spread(|sample| sample.own_load), 2),
            "otherLoad": median(entry.spread(|sample| sample.other_load), 2),
            "stolenLoad": median(entry.spread(|sample| sample.stolen_load), 2),
            "runs": entry.samples.len(),
        });
        for (name, figure) in entry.extra() {
            merge(&mut value, json!({name: round(figure.median, 3)}));
            merge(&mut spread, json!({name: figure.json(3)}));
        }
        merge(&mut value, json!({"spread": spread}));
        if !entry.failures.is_empty() {
            merge(&mut value, json!({"failures": entry.failures}));
        }
        value
    }

    /// Lines of a Markdown table, one for each team.
    #[must_use]
    pub fn rows(&self) -> String {
        let mut rows = String::new();
        for entry in &self.entries {
            let show = |spread: Option<Spread>, digits: usize| match spread {
                None => "–".to_owned(),
                Some(one) if entry.samples.len() == 1 => format!("{:.digits$}", one.median),
                Some(Spread {
                    median,
                    least,
                    most,
                }) => format!("{median:.digits$} ({least:.digits$}–{most:.digits$})"),
            };
            let peak = entry
                .samples
                .iter()
                .map(|sample| sample.peak_resident)
                .max();
            let mut notes = entry.failures.clone();
            for (name, figure) in entry.extra() {
                notes.push(format!("{name} {}", show(Some(figure), 2)));
            }
            // Writing to a string cannot fail.
            let _ = writeln!(
                rows,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                self.case.name,
                entry.team.name(),
                show(entry.seconds(), 2),
                show(self.ratio(entry), 2),
                show(entry.spread(|one| one.copies), 3),
                show(entry.spread(|one| one.cpu_seconds_per_gb), 2),
                peak.map_or(0, |peak| peak / 1_000_000),
                show(entry.spread(|one| one.own_load), 1),
                show(entry.spread(|one| one.other_load), 1),
                show(entry.spread(|one| one.stolen_load), 2),
                entry.samples.len(),
                notes.join("; ")
            );
        }
        rows
    }
}

/// The head of the table of [`Outcome::rows`].
pub const HEAD: &str = "\
| case | program | seconds | ÷ bound | copies from the origin | CPU-s/GB | MB resident at most | own load | other load | stolen | runs | notes |\n\
|---|---|---|---|---|---|---|---|---|---|---|---|\n";

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

/// Bytes a second as MB/s, for people.
#[must_use]
pub fn megabytes_per_second(bytes: u64, seconds: f64) -> f64 {
    round(float(bytes) / 1e6 / seconds, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_what_the_documents_promise() {
        let sample = |seconds, copies| Sample {
            seconds,
            copies,
            figures: vec![("readySeconds", seconds / 10.0)],
            ..Sample::default()
        };
        let entry = |team, samples| Entry {
            team,
            samples,
            failures: Vec::new(),
        };
        let case = &crate::case::CASES[0];
        let outcome = Outcome {
            case,
            entries: vec![
                entry(
                    Team::Ours,
                    vec![sample(11.0, 1.0), sample(13.0, 1.5), sample(12.0, 1.1)],
                ),
                entry(Team::Libtorrent, vec![sample(30.0, 2.0)]),
                entry(Team::Aria2, vec![sample(20.0, 1.4)]),
            ],
        };
        let json = outcome.json();
        for key in ["cpuSecondsPerGB", "boundSeconds", "ratio"] {
            assert!(json[key].is_number(), "{key}");
        }
        assert_eq!(json["case"], "cold");
        assert_eq!(json["nodes"], 8);
        assert_eq!(json["bytes"], 192 << 20);
        assert_eq!(json["seconds"], 12.0);
        assert_eq!(json["originCopies"], 1.1);
        assert_eq!(json["readySeconds"], 1.2);
        assert_eq!(json["spread"]["originCopies"], json!([1.0, 1.5]));
        assert_eq!(json["spread"]["readySeconds"], json!([1.1, 1.3]));
        assert_eq!(json["peer"], "aria2");
        assert_eq!(json["peerCopies"], 1.4);
        assert_eq!(json["peerRatio"], 1.987);
        let rows = outcome.rows();
        assert!(
            rows.starts_with("| cold | modelcache | 12.00 (11.00–13.00) |"),
            "{rows}"
        );
        assert!(
            rows.lines().all(|row| row.matches('|').count() == 13),
            "{rows}"
        );
        assert!(HEAD.lines().all(|row| row.matches('|').count() == 13));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 2.5,
                least: 1.0,
                most: 4.0
            }
        );
        let odd = Spread::of([7.0, 1.0, 3.0].into_iter()).unwrap();
        assert!((odd.median - 3.0).abs() < f64::EPSILON);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
