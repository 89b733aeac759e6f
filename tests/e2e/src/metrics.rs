//! Reading Prometheus text from operator and agents, through the API server.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::ResourceExt;

use crate::world::{SYSTEM, World};

/// One sample: name, labels, value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// Parses the text exposition format; comments are skipped, what cannot be read is an error.
pub fn parse(text: &str) -> Result<Vec<Sample>> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(line)
        .collect()
}

fn line(text: &str) -> Result<Sample> {
    let (series, value) = text
        .rsplit_once(' ')
        .with_context(|| format!("no value in '{text}'"))?;
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => {
            let rest = rest
                .strip_suffix('}')
                .with_context(|| format!("unclosed labels in '{text}'"))?;
            let labels = rest
                .split("\",")
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair
                        .split_once("=\"")
                        .with_context(|| format!("bad label in '{text}'"))?;
                    Ok((key.to_owned(), value.trim_end_matches('"').to_owned()))
                })
                .collect::<Result<_>>()?;
            (name, labels)
        }
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value
            .parse()
            .with_context(|| format!("bad value in '{text}'"))?,
    })
}

/// Sum over all samples of a name whose labels contain `labels`.
#[must_use]
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    samples
        .iter()
        .filter(|sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
        .map(|sample| sample.value)
        .sum()
}

impl World {
    /// The raw metrics text of one pod.
    pub async fn metrics_text(&self, pod: &str, port: u16) -> Result<String> {
        let request = http::Request::get(format!(
            "/api/v1/namespaces/{SYSTEM}/pods/{pod}:{port}/proxy/metrics"
        ))
        .body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }

    /// The samples of the agents by node.
    pub async fn agent_metrics(&self) -> Result<BTreeMap<String, Vec<Sample>>> {
        let mut all = BTreeMap::new();
        for pod in self
            .pods(SYSTEM, "app.kubernetes.io/component=agent")
            .await?
        {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
                continue;
            };
            let text = self.metrics_text(&pod.name_any(), 9491).await?;
            all.insert(node, parse(&text)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, sum};

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP x X.\n# TYPE x counter\nx_total{model=\"a/b\",node=\"n 1\"} 12\nx_total{model=\"c\"} 3\ny 1.5\n";
        let samples = parse(text).unwrap();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].labels["node"], "n 1");
        assert!((sum(&samples, "x_total", &[]) - 15.0).abs() < f64::EPSILON);
        assert!((sum(&samples, "x_total", &[("model", "c")]) - 3.0).abs() < f64::EPSILON);
    }
}
