//! What a check found, and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

/// What it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, or may work; what to do is said.
    Warn(String),
    /// It does not work; what to do is said.
    Fail(String),
    /// It could not be looked at, or nobody asked for it.
    Skipped,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn(_) => "warn",
            Self::Fail(_) => "fail",
            Self::Skipped => "skipped",
        }
    }

    fn advice(&self) -> Option<&str> {
        match self {
            Self::Warn(advice) | Self::Fail(advice) => Some(advice),
            Self::Ok | Self::Skipped => None,
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// What it means.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
}

impl Finding {
    fn new(check: impl Into<String>, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict,
            seen: seen.into(),
        }
    }

    /// As it should be.
    pub fn ok(check: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, seen)
    }

    /// Something to look after.
    pub fn warn(check: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self::new(check, Verdict::Warn(advice.to_owned()), seen)
    }

    /// Something that does not work.
    pub fn fail(check: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self::new(check, Verdict::Fail(advice.to_owned()), seen)
    }

    /// Something that was not looked at.
    pub fn skipped(check: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, why)
    }
}

/// How many failed.
#[must_use]
pub fn failures(findings: &[Finding]) -> usize {
    let failed = |finding: &&Finding| matches!(finding.verdict, Verdict::Fail(_));
    findings.iter().filter(failed).count()
}

/// For people: one check a line, and below it what to do.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let widest = |cell: fn(&Finding) -> usize, head: &str| {
        let widths = findings.iter().map(cell);
        widths.max().unwrap_or(0).max(head.len())
    };
    let check = widest(|finding| finding.check.chars().count(), "CHECK");
    let status = widest(|finding| finding.verdict.word().len(), "STATUS");
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{:check$}   {:status$}   SEEN", "CHECK", "STATUS");
    for finding in findings {
        let word = finding.verdict.word();
        let line = format!(
            "{:check$}   {word:status$}   {}",
            finding.check, finding.seen
        );
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(advice) = finding.verdict.advice() {
            let _ = writeln!(text, "{:check$}   {:status$}   -> {advice}", "", "");
        }
    }
    text
}

/// For programs: one object with the checks and the number of those that failed.
pub fn json(findings: &[Finding]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Row<'a> {
        check: &'a str,
        status: &'a str,
        seen: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        advice: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        checks: Vec<Row<'a>>,
        failed: usize,
    }
    let checks = findings.iter().map(|finding| Row {
        check: &finding.check,
        status: finding.verdict.word(),
        seen: &finding.seen,
        advice: finding.verdict.advice(),
    });
    let report = Report {
        checks: checks.collect(),
        failed: failures(findings),
    };
    serde_json::to_string_pretty(&report).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> [Finding; 3] {
        [
            Finding::ok("hub", "HTTP 200"),
            Finding::fail("multicast", "nothing", "ask the switch"),
            Finding::skipped("coordinator", "no --coordinator"),
        ]
    }

    #[test]
    fn people_read_what_is_wrong_and_what_to_do() {
        assert_eq!(
            table(&some()),
            "CHECK         STATUS    SEEN\n\
             hub           ok        HTTP 200\n\
             multicast     fail      nothing\n\
             \x20                       -> ask the switch\n\
             coordinator   skipped   no --coordinator\n"
        );
        assert_eq!(failures(&some()), 1);
    }

    #[test]
    fn programs_read_the_same() {
        let value: serde_json::Value = serde_json::from_str(&json(&some()).unwrap()).unwrap();
        assert_eq!(value["failed"], 1);
        assert_eq!(value["checks"][1]["status"], "fail");
        assert_eq!(value["checks"][1]["advice"], "ask the switch");
        assert!(value["checks"][0].get("advice").is_none());
    }
}
