//! The picture for people. Pure.

use modelcache_crds::model_cache_node::Phase;
use modelcache_crds::quantity::human_bytes;

use crate::view::{CacheView, ModelView, NodeView, Verdict};

/// Cells of a bar.
const BAR: i64 = 20;

const HEADINGS: [&str; 7] = [
    "NODE",
    "PHASE",
    "",
    "DONE",
    "FROM HUB",
    "FROM NODES",
    "REASON",
];

/// All ModelCaches, one below the other.
pub(crate) fn render(caches: &[CacheView]) -> String {
    if caches.is_empty() {
        return "There is no ModelCache. Make one: kubectl apply -f deploy/samples/one-model.yaml\n".to_owned();
    }
    let blocks: Vec<String> = caches.iter().map(block).collect();
    blocks.join("\n")
}

/// One sentence about a ModelCache.
pub(crate) fn sentence(cache: &CacheView) -> String {
    let name = &cache.name;
    match cache.verdict {
        Verdict::Ready => format!("{name} is Ready: {}", cache.message),
        Verdict::Working => format!(
            "{name} is not Ready yet ({}): {}",
            cache.reason, cache.message
        ),
        Verdict::Failed => format!("{name} failed ({}): {}", cache.reason, cache.message),
        Verdict::Suspended => format!("{name} is suspended: {}", cache.message),
    }
}

fn block(cache: &CacheView) -> String {
    let mut facts = Vec::new();
    if !cache.ready.is_empty() {
        facts.push(format!("{} nodes", cache.ready));
    }
    if !cache.size.is_empty() {
        facts.push(cache.size.clone());
    }
    if !matches!(cache.origin_copies.as_str(), "" | "-") {
        facts.push(format!("{} copies from the hub", cache.origin_copies));
    }
    let mut head = format!("{}  {}", cache.name, cache.reason);
    if !facts.is_empty() {
        head = format!("{head}  ({})", facts.join(", "));
    }
    let mut lines = vec![head];
    if cache.verdict != Verdict::Ready {
        lines.push(format!("  {}", cache.message));
    }
    lines.extend(cache.models.iter().flat_map(model_lines));
    lines.join("\n") + "\n"
}

fn model_lines(model: &ModelView) -> Vec<String> {
    let commit: String = model
        .commit
        .iter()
        .flat_map(|commit| commit.chars().take(8))
        .collect();
    let mut head = format!("  {}: {} {}", model.name, model.repository, model.revision);
    if !commit.is_empty() && !model.revision.starts_with(&commit) {
        head = format!("{head} ({commit})");
    }
    if model.size_bytes > 0 {
        head = format!("{head}, {}", human_bytes(model.size_bytes));
    }
    if let Some(reason) = &model.reason {
        head = format!("{head}, {reason}");
    }
    let mut lines = vec![head];
    if !model.nodes.is_empty() {
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(model.nodes.iter().map(row));
        lines.extend(aligned(&rows).into_iter().map(|line| format!("    {line}")));
    }
    lines
}

fn row(node: &NodeView) -> [String; 7] {
    let why = match (&node.reason, &node.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    };
    [
        node.node.clone(),
        format!("{:?}", node.phase),
        bar(node),
        format!("{}%", node.percent),
        human_bytes(node.origin_bytes),
        human_bytes(node.peer_bytes),
        why,
    ]
}

fn bar(node: &NodeView) -> String {
    let full = if node.phase == Phase::Ready {
        BAR
    } else {
        node.percent * BAR / 100
    };
    (0..BAR)
        .map(|cell| if cell < full { '█' } else { '░' })
        .collect()
}

/// Columns side by side; the last one is not padded.
fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// What fits the terminal: lines cut to its width and, where there are too many for its height, the first ones only, so
/// that the whole can be drawn over.
pub(crate) fn fit(text: &str, width: usize, height: usize) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| cut(line, width)).collect();
    // The line below the picture, where the cursor rests, is a line too.
    let room = height.saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() - (room - 1);
        lines.truncate(room - 1);
        lines.push(cut(
            &format!("… {hidden} more lines; all of them: kubectl modelcache status"),
            width,
        ));
    }
    lines
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        line.to_owned()
    } else {
        let kept: String = line.chars().take(width.saturating_sub(1)).collect();
        format!("{kept}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{cache, node};
    use crate::view::view;

    #[test]
    fn a_download_is_shown_by_node() {
        let nodes = [
            node(
                "node-1",
                "phase: Ready, sizeBytes: 91000000, heldBytes: 91000000, originBytes: 30000000, peerBytes: 61000000",
            ),
            node(
                "node-2",
                "phase: Downloading, sizeBytes: 91000000, heldBytes: 45500000, originBytes: 30000000, peerBytes: 15500000",
            ),
            node(
                "node-10",
                "phase: Failed, sizeBytes: 91000000, reason: NoSpace, message: 12 GB are missing on /var/lib/modelcache",
            ),
        ];
        let view = view(
            &cache(&["Ready=False/Downloading", "Progressing=True/Downloading"]),
            &nodes.iter().collect::<Vec<_>>(),
        );
        let expected = "\
demo  Downloading  (1/2 nodes, 91 MB, 1.02 copies from the hub)
  about Downloading
  lm: org/lm main (c9745ed1), 91 MB
    NODE     PHASE                              DONE  FROM HUB  FROM NODES  REASON
    node-1   Ready        ████████████████████  100%  30 MB     61 MB
    node-10  Failed       ░░░░░░░░░░░░░░░░░░░░  0%    0 B       0 B         NoSpace: 12 GB are missing on /var/lib/modelcache
    node-2   Downloading  ██████████░░░░░░░░░░  50%   30 MB     16 MB
";
        assert_eq!(render(&[view]), expected);
    }

    #[test]
    fn nothing_at_all_says_what_to_do() {
        assert!(render(&[]).contains("kubectl apply"));
    }

    #[test]
    fn a_cache_nobody_has_looked_at_says_so() {
        let mut cache = cache(&[]);
        cache.status = None;
        let view = view(&cache, &[]);
        assert_eq!(
            render(std::slice::from_ref(&view)),
            "demo  Resolving\n  the operator has said nothing of it yet; is it running?\n  lm: org/lm main\n"
        );
        assert!(sentence(&view).starts_with("demo is not Ready yet (Resolving)"));
    }

    #[test]
    fn what_is_drawn_fits_the_terminal() {
        assert_eq!(fit("ab\n░░░░\n", 3, 10), ["ab", "░░…"]);
        assert_eq!(fit("abc", 3, 10), ["abc"]);
        assert_eq!(fit("1\n2\n3\n", 80, 4), ["1", "2", "3"]);
        let lines = fit("1\n2\n3\n4\n", 80, 4);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with("… 2 more lines"), "{lines:?}");
        assert_eq!(fit("1\n2\n", 80, 0).len(), 1);
    }
}
