//! How the agents are installed, as far as the plan depends on it: where they keep models, and on which nodes they run.

use kube::core::{Selector, SelectorExt as _};

use crate::picture::NodeSeen;

/// Label that the kubelet sets.
const OS_LABEL: &str = "kubernetes.io/os";

/// How the agents are installed.
#[derive(Clone, Debug, Default)]
pub struct Agents {
    /// Where they keep models, on their nodes.
    pub cache_dir: String,
    /// `nodeSelector` of their `DaemonSet`.
    pub node_selector: Selector,
}

impl Agents {
    /// Whether the `DaemonSet` puts an agent on the node.
    ///
    /// Taints do not matter: as installed by the chart, agents tolerate all of them, and a taint that comes and goes must
    /// not throw away what the node holds. Nor does it matter whether the node is ready or cordoned: a model may well
    /// arrive before the pods do.
    #[must_use]
    pub fn run_on(&self, node: &NodeSeen) -> bool {
        !node.deleting && is_linux(node) && self.node_selector.matches(&node.labels)
    }

    /// For people: the nodes they run on.
    #[must_use]
    pub fn nodes(&self) -> String {
        match self.node_selector.to_string() {
            text if text.is_empty() => "Linux nodes".to_owned(),
            text => format!("nodes with {text}"),
        }
    }
}

/// Also without a selector that says so, the agent is a Linux program.
fn is_linux(node: &NodeSeen) -> bool {
    node.labels
        .get(OS_LABEL)
        .is_none_or(|system| system == "linux")
}

/// Reads a `nodeSelector` written as `key=value,key=value`; nothing means every node.
pub(crate) fn node_selector(text: &str) -> Result<Selector, String> {
    text.split(',')
        .map(str::trim)
        .filter(|label| !label.is_empty())
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.contains('=') => {
                Ok((key.to_owned(), value.to_owned()))
            }
            _ => Err(format!(
                "{label:?} is no label: write key=value,key=value, for example {OS_LABEL}=linux"
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)]) -> NodeSeen {
        NodeSeen {
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..NodeSeen::default()
        }
    }

    fn agents(selector: &str) -> Agents {
        Agents {
            node_selector: node_selector(selector).unwrap(),
            ..Agents::default()
        }
    }

    #[test]
    fn agents_run_where_all_labels_of_their_selector_are() {
        let everywhere = agents("");
        assert!(everywhere.run_on(&node(&[])));
        assert!(everywhere.run_on(&node(&[("kubernetes.io/os", "linux")])));
        assert!(!everywhere.run_on(&node(&[("kubernetes.io/os", "windows")])));
        assert_eq!(everywhere.nodes(), "Linux nodes");

        let some = agents("kubernetes.io/os=linux,gpu=true");
        assert!(some.run_on(&node(&[("kubernetes.io/os", "linux"), ("gpu", "true")])));
        assert!(!some.run_on(&node(&[("kubernetes.io/os", "linux"), ("gpu", "false")])));
        assert!(!some.run_on(&node(&[("kubernetes.io/os", "linux")])));
        // As the scheduler has it: what has no label does not bear it.
        assert!(!some.run_on(&node(&[("gpu", "true")])));
        assert_eq!(some.nodes(), "nodes with gpu=true,kubernetes.io/os=linux");
    }

    #[test]
    fn a_node_that_is_being_deleted_gets_nothing_any_more() {
        let leaving = NodeSeen {
            deleting: true,
            ..NodeSeen::default()
        };
        assert!(!agents("").run_on(&leaving));
    }

    #[test]
    fn a_selector_is_a_list_of_labels() {
        // A label may be empty.
        assert!(agents("gpu=").run_on(&node(&[("gpu", "")])));
        assert_eq!(
            node_selector(" a=b , c/d=e ,").unwrap().to_string(),
            "a=b,c/d=e"
        );
        for bad in ["gpu", "=true", "a=b=c", "a=b,gpu"] {
            assert!(node_selector(bad).is_err(), "{bad}");
        }
    }
}
