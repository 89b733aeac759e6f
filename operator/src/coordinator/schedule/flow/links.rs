//! Links that flows share max-min fairly by weight, which is what long TCP connections come near to.

use std::collections::BTreeMap;

/// A transfer: the links that it passes, and what is left of it.
#[derive(Debug)]
struct Flow {
    path: Vec<usize>,
    /// How many shares of a link it gets.
    weight: u64,
    /// Most that its one connection carries, in bytes a second.
    most: u64,
    /// In thousandths of a byte, so that a rate in bytes a second times milliseconds is exact.
    left: u64,
    /// In bytes a second.
    rate: u64,
}

/// All links and what flows through them. Times in milliseconds.
#[derive(Debug)]
pub(super) struct Links {
    /// In bytes a second.
    rates: Vec<u64>,
    flows: BTreeMap<u64, Flow>,
    now: u64,
    changed: bool,
}

impl Links {
    pub(super) fn new(rates: Vec<u64>) -> Self {
        Self {
            rates,
            flows: BTreeMap::new(),
            now: 0,
            changed: false,
        }
    }

    pub(super) fn set_rate(&mut self, link: usize, rate: u64) {
        self.rates[link] = rate;
        self.changed = true;
    }

    /// Begins a transfer at the time reached.
    pub(super) fn start(&mut self, id: u64, path: Vec<usize>, weight: u64, most: u64, bytes: u64) {
        let left = bytes * 1000;
        let flow = Flow {
            path,
            weight,
            most,
            left,
            rate: 0,
        };
        self.flows.insert(id, flow);
        self.changed = true;
    }

    /// When the next transfer ends if none begins before.
    pub(super) fn next_end(&mut self) -> Option<u64> {
        if std::mem::take(&mut self.changed) {
            self.share();
        }
        let ends = self
            .flows
            .values()
            .map(|flow| flow.left.div_ceil(flow.rate));
        ends.min().map(|after| self.now + after)
    }

    /// Lets time pass, not beyond [`Links::next_end`]; gives the transfers that end.
    pub(super) fn advance(&mut self, now: u64) -> Vec<u64> {
        let passed = now - self.now;
        self.now = now;
        let mut ended = Vec::new();
        for (id, flow) in &mut self.flows {
            flow.left = flow.left.saturating_sub(flow.rate * passed);
            if flow.left == 0 {
                ended.push(*id);
            }
        }
        for id in &ended {
            self.flows.remove(id);
        }
        self.changed |= !ended.is_empty();
        ended
    }

    /// Fills all links evenly by weight; whenever one is full, what passes it has its rate.
    fn share(&mut self) {
        let mut flows: Vec<&mut Flow> = self.flows.values_mut().collect();
        let mut free = self.rates.clone();
        let mut through = vec![Vec::new(); free.len()];
        let mut waiting = vec![0; free.len()];
        for (number, flow) in flows.iter_mut().enumerate() {
            flow.rate = 0;
            for link in &flow.path {
                through[*link].push(number);
                waiting[*link] += flow.weight;
            }
        }
        let mut by_most: Vec<usize> = (0..flows.len()).collect();
        by_most
            .sort_by_key(|number| std::cmp::Reverse(flows[*number].most / flows[*number].weight));
        loop {
            while by_most.last().is_some_and(|number| flows[*number].rate > 0) {
                by_most.pop();
            }
            let Some(slowest) = by_most.last() else {
                return;
            };
            let shares = (0..free.len()).filter(|link| waiting[*link] > 0);
            let (share, link) = shares
                .map(|link| (free[link] / waiting[link], link))
                .min()
                .unwrap();
            let most = flows[*slowest].most / flows[*slowest].weight;
            let full = if most < share {
                vec![*slowest]
            } else {
                std::mem::take(&mut through[link])
            };
            for number in full {
                let flow = &mut *flows[number];
                if flow.rate == 0 {
                    flow.rate = (share * flow.weight).min(flow.most).max(1);
                    for link in &flow.path {
                        free[*link] = free[*link].saturating_sub(flow.rate);
                        waiting[*link] -= flow.weight;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Links;

    fn rates(links: &mut Links) -> Vec<u64> {
        links.next_end();
        links.flows.values().map(|flow| flow.rate).collect()
    }

    #[test]
    fn what_one_cannot_use_the_others_get() {
        let mut links = Links::new(vec![900, 100, 1000]);
        links.start(0, vec![0, 1], 1, u64::MAX, 1000);
        links.start(1, vec![0, 2], 1, u64::MAX, 1000);
        links.start(2, vec![0, 2], 1, u64::MAX, 1000);
        assert_eq!(rates(&mut links), [100, 400, 400]);
        links.start(3, vec![0], 1, 50, 1000);
        assert_eq!(rates(&mut links), [100, 375, 375, 50]);
        links.start(4, vec![0], 3, u64::MAX, 1000);
        assert_eq!(rates(&mut links), [100, 150, 150, 50, 450]);
    }

    #[test]
    fn a_flow_ends_when_its_bytes_have_passed() {
        let mut links = Links::new(vec![1000]);
        links.start(0, vec![0], 1, u64::MAX, 500);
        links.start(1, vec![0], 1, u64::MAX, 1500);
        assert_eq!(links.next_end(), Some(1000));
        assert_eq!(links.advance(1000), [0]);
        assert_eq!(links.next_end(), Some(2000));
        assert_eq!(links.advance(2000), [1]);
        assert_eq!(links.next_end(), None);
    }
}
