//! Who is connected to a port that anybody may reach: few at once, and fewer of each source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The places for connections. Clones share them.
#[derive(Clone, Debug)]
pub struct Crowd {
    places: usize,
    places_of_one: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place, given up when this is dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Crowd,
    source: IpAddr,
}

impl Crowd {
    /// One with so many places, of which each [`source`] may have at most `places_of_one`.
    #[must_use]
    pub fn new(places: usize, places_of_one: usize) -> Self {
        Self {
            places,
            places_of_one,
            taken: Arc::default(),
        }
    }

    /// A place for one more from there, if there is one.
    #[must_use]
    pub fn enter(&self, from: IpAddr) -> Option<Place> {
        let source = source(from);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let of_source = taken.get(&source).copied().unwrap_or_default();
        if all >= self.places || of_source >= self.places_of_one {
            return None;
        }
        taken.insert(source, of_source + 1);
        Some(Place {
            crowd: self.clone(),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &self.crowd.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_source) = taken.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: whoever has one address of an IPv6 network of 64 bits can have them all.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_takes_all_places() {
        let crowd = Crowd::new(10, 4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(crowd.enter(address("10.0.0.1")).unwrap());
        }
        assert!(crowd.enter(address("10.0.0.1")).is_none());
        assert!(crowd.enter(address("::ffff:10.0.0.1")).is_none());
        for host in 0..4 {
            places.push(crowd.enter(address(&format!("fd00::{host:x}"))).unwrap());
        }
        assert!(crowd.enter(address("fd00::ffff:1:2:3")).is_none());
        places.push(crowd.enter(address("fd00:0:0:1::1")).unwrap());
        places.push(crowd.enter(address("10.0.1.1")).unwrap());
        assert!(crowd.enter(address("10.0.1.2")).is_none());
        places.remove(0);
        places.push(crowd.enter(address("10.0.0.1")).unwrap());
        drop(places);
        assert!(crowd.taken.lock().unwrap().is_empty());
    }
}
