//! The cache directory: room, and whether its file system does what the store needs. Works beside a running agent.

use std::path::PathBuf;

use modelcache_crds::quantity::human_bytes;
use modelcache_swarm::store::{self, Disk, StoreError};

use super::finding::Finding;

/// Smaller than most models.
const LITTLE: u64 = 10 << 30;

/// Looks, and says what it means.
pub async fn check(root: PathBuf) -> Vec<Finding> {
    let examined = tokio::task::spawn_blocking(move || store::examine(&root)).await;
    match examined {
        Ok(examined) => judge(examined.as_ref()),
        Err(error) => vec![Finding::skipped("disk", format!("it ended badly: {error}"))],
    }
}

fn judge(examined: Result<&Disk, &StoreError>) -> Vec<Finding> {
    let disk = match examined {
        Ok(disk) => disk,
        Err(error) => {
            return vec![Finding::fail(
                "disk, files",
                error.to_string(),
                "give the directory to the agent's user ('prepare'), on a local file system that is healthy and not read-only",
            )];
        }
    };
    let files = if disk.swaps && disk.reserves {
        Finding::ok("disk, files", "written, synced, linked, renamed, swapped")
    } else {
        let missing: Vec<&str> = [
            (disk.swaps, "swap directories"),
            (disk.reserves, "reserve blocks"),
        ]
        .into_iter()
        .filter(|(able, _)| !able)
        .map(|(_, what)| what)
        .collect();
        Finding::warn(
            "disk, files",
            format!("this file system cannot {}", missing.join(" or ")),
            "it works, less well: xfs or ext4 can",
        )
    };
    let words = |bytes: u64| human_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let seen = format!(
        "{} of {} free for models",
        words(disk.space.free),
        words(disk.space.total)
    );
    let room = match disk.space.free {
        0 => Finding::fail(
            "disk, room",
            seen,
            "no new model fits: free space, or use a larger disk",
        ),
        1..LITTLE => Finding::warn("disk, room", seen, "few models fit: use a larger disk"),
        _ => Finding::ok("disk, room", seen),
    };
    vec![files, room]
}

#[cfg(test)]
mod tests {
    use modelcache_swarm::store::Space;

    use super::super::finding::Verdict;
    use super::*;

    fn found(free: u64, able: bool) -> Vec<Verdict> {
        let disk = Disk {
            space: Space {
                total: 1 << 40,
                free,
            },
            swaps: able,
            reserves: true,
        };
        let findings = judge(Ok(&disk));
        findings
            .into_iter()
            .map(|finding| finding.verdict)
            .collect()
    }

    #[test]
    fn a_disk_is_judged_by_room_and_by_what_it_can() {
        assert_eq!(found(1 << 39, true), [Verdict::Ok, Verdict::Ok]);
        assert!(matches!(
            found(1 << 30, false)[..],
            [Verdict::Warn(_), Verdict::Warn(_)]
        ));
        assert!(matches!(
            found(0, true)[..],
            [Verdict::Ok, Verdict::Fail(_)]
        ));
    }

    #[tokio::test]
    async fn a_directory_that_is_none_fails() {
        let findings = check("/proc/nowhere".into()).await;
        assert!(
            matches!(
                findings[..],
                [Finding {
                    verdict: Verdict::Fail(_),
                    ..
                }]
            ),
            "{findings:?}"
        );
    }
}
