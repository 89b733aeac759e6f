//! The hub's rate limit: so many requests per client and kind in a fixed window.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::admin::Quotas;
use crate::locks::lock;

/// Whose budget a request is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payer {
    /// Everybody behind this address who sends no token.
    Address(IpAddr),
    /// A user, wherever they are.
    User(String),
}

/// The hub's three kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/api/…`
    Api,
    /// `/{repository}/resolve/…`
    Resolvers,
    /// The rest.
    Pages,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Resolvers => "resolvers",
            Self::Pages => "pages",
        }
    }

    fn quota(self, quotas: &Quotas) -> u64 {
        match self {
            Self::Api => quotas.api,
            Self::Resolvers => quotas.resolvers,
            Self::Pages => quotas.pages,
        }
    }
}

/// What is left of a budget after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the request was within the budget.
    pub allowed: bool,
    kind: Kind,
    quota: u64,
    window: u64,
    remaining: u64,
    /// Seconds until the window ends, rounded up.
    pub reset: u64,
}

impl Standing {
    /// The `RateLimit` header.
    #[must_use]
    pub fn rate_limit(&self) -> String {
        format!(
            "\"{}\";r={};t={}",
            self.kind.name(),
            self.remaining,
            self.reset
        )
    }

    /// The `RateLimit-Policy` header.
    #[must_use]
    pub fn policy(&self) -> String {
        format!(
            "\"fixed window\";\"{}\";q={};w={}",
            self.kind.name(),
            self.quota,
            self.window
        )
    }
}

/// Everybody's windows.
#[derive(Debug, Default)]
pub struct Budgets {
    windows: Mutex<HashMap<(Payer, Kind), Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    used: u64,
}

impl Budgets {
    /// Charges one request made at `now`. A window starts with its first request.
    pub fn charge(
        &self,
        payer: Payer,
        kind: Kind,
        quotas: &Quotas,
        window_seconds: u64,
        now: Instant,
    ) -> Standing {
        let length = Duration::from_secs(window_seconds);
        let mut windows = lock(&self.windows);
        let window = windows.entry((payer, kind)).or_insert(Window {
            start: now,
            used: 0,
        });
        if now.saturating_duration_since(window.start) >= length {
            *window = Window {
                start: now,
                used: 0,
            };
        }
        let quota = kind.quota(quotas);
        let allowed = window.used < quota;
        window.used += u64::from(allowed);
        let left = length.saturating_sub(now.saturating_duration_since(window.start));
        Standing {
            allowed,
            kind,
            quota,
            window: window_seconds,
            remaining: quota - window.used.min(quota),
            reset: left.as_secs() + u64::from(left.subsec_nanos() > 0),
        }
    }

    /// Gives everybody a fresh window.
    pub fn clear(&self) {
        lock(&self.windows).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_used_up_and_starts_anew() {
        let budgets = Budgets::default();
        let quotas = Quotas {
            api: 2,
            resolvers: 1,
            pages: 1,
        };
        let payer = || Payer::User("alice".to_owned());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_millis(seconds);
        let first = budgets.charge(payer(), Kind::Api, &quotas, 5, at(0));
        assert_eq!(first.rate_limit(), "\"api\";r=1;t=5");
        assert_eq!(first.policy(), "\"fixed window\";\"api\";q=2;w=5");
        let second = budgets.charge(payer(), Kind::Api, &quotas, 5, at(1500));
        assert!(second.allowed);
        assert_eq!(second.rate_limit(), "\"api\";r=0;t=4");
        assert!(
            !budgets
                .charge(payer(), Kind::Api, &quotas, 5, at(4999))
                .allowed
        );
        // Others and other kinds have budgets of their own.
        assert!(
            budgets
                .charge(payer(), Kind::Resolvers, &quotas, 5, at(4999))
                .allowed
        );
        assert!(
            budgets
                .charge(
                    Payer::Address([127, 0, 0, 1].into()),
                    Kind::Api,
                    &quotas,
                    5,
                    at(4999)
                )
                .allowed
        );
        let fresh = budgets.charge(payer(), Kind::Api, &quotas, 5, at(5000));
        assert!(fresh.allowed);
        assert_eq!(fresh.rate_limit(), "\"api\";r=1;t=5");
    }
}
