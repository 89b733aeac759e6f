//! Base URLs of hubs, compared as whoever sends a request to them would understand them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use url::Url;

/// The text is no base URL of a hub.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "write the base URL of a hub: http or https, host, and port or path where it has them, for example https://huggingface.co"
)]
pub struct EndpointError;

/// Base URL of a hub in its normal form: scheme and host in lower case, no default port, no slash at the end. It has
/// neither user nor query nor fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Whether `other` is this endpoint or lies below its path. Scheme, host and port must be the same.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let below = other.path().strip_prefix(self.path());
        self.0.origin() == other.0.origin()
            && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(|_| EndpointError)?;
        let is_base = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if is_base {
            Ok(Self(url))
        } else {
            Err(EndpointError)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for bad in [
            "",
            "hub",
            "hub.example",
            "//hub.example",
            "ftp://hub.example",
            "file:///models",
            "https://",
            "https://user@hub.example",
            "https://user:secret@hub.example",
            "https://:secret@hub.example",
            "https://hub.example?a=b",
            "https://hub.example/#x",
            "https://hub.example:99999",
            "https://hub.example, https://other.example",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(EndpointError), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_covers_itself_and_what_lies_below_it() {
        let hub = endpoint("https://hub.example/team");
        for same in [
            "https://hub.example/team",
            "https://hub.example/team/",
            "https://hub.example/team/a",
            "https://hub.example/team/a/../b",
        ] {
            assert!(hub.covers(&endpoint(same)), "{same}");
        }
        for other in [
            "https://hub.example",
            "https://hub.example/",
            "https://hub.example/tea",
            "https://hub.example/teams",
            "https://hub.example/Team",
            "https://hub.example/other",
            "https://hub.example/team/../other",
            "https://hub.example/team/%2e%2e/other",
            "https://hub.example/team\\..\\other",
            "http://hub.example/team",
            "http://hub.example:443/team",
            "https://hub.example:8443/team",
            "https://hub.example.evil.example/team",
            "https://evil.example/hub.example/team",
            "https://evilhub.example/team",
            "https://evil.example\\hub.example/team",
        ] {
            assert!(!hub.covers(&endpoint(other)), "{other}");
        }
    }

    /// How one endpoint may be written.
    #[derive(Clone, Debug)]
    struct Spelling {
        upper: bool,
        port: bool,
        slashes: usize,
    }

    fn spelling() -> impl Strategy<Value = Spelling> {
        (any::<bool>(), any::<bool>(), 0..3_usize).prop_map(|(upper, port, slashes)| Spelling {
            upper,
            port,
            slashes,
        })
    }

    /// Scheme, host, port (none: the scheme's own) and path.
    type Parts = (bool, String, Option<u16>, String);

    fn parts() -> impl Strategy<Value = Parts> {
        (
            any::<bool>(),
            // Few, so that two are often alike in parts.
            "[ab](\\.c)?",
            prop::option::of(1000..1002_u16),
            "(/[ab]{1,2}){0,2}",
        )
    }

    fn written((tls, host, port, path): &Parts, how: &Spelling) -> String {
        let scheme = if *tls { "https" } else { "http" };
        let port = match (port, how.port, tls) {
            (Some(port), ..) => format!(":{port}"),
            (None, true, true) => ":443".to_owned(),
            (None, true, false) => ":80".to_owned(),
            (None, false, _) => String::new(),
        };
        let mut base = format!("{scheme}://{host}{port}");
        if how.upper {
            base = base.to_uppercase();
        }
        base + path + &"/".repeat(how.slashes)
    }

    proptest! {
        #[test]
        fn the_spelling_means_nothing(
            parts in parts(),
            one in spelling(),
            two in spelling(),
            below in "(/[a-c]{1,2}){0,2}",
        ) {
            let first = endpoint(&written(&parts, &one));
            prop_assert!(first.covers(&endpoint(&written(&parts, &two))));
            let (tls, host, port, path) = parts;
            let deeper = (tls, host, port, path + &below);
            prop_assert!(first.covers(&endpoint(&written(&deeper, &two))));
        }

        #[test]
        fn what_differs_in_scheme_host_or_port_is_another_hub(
            one in parts(),
            two in parts(),
            how in spelling(),
        ) {
            let covers = endpoint(&written(&one, &how)).covers(&endpoint(&written(&two, &how)));
            let same_hub = (one.0, &one.1, one.2) == (two.0, &two.1, two.2);
            let below = two.3 == one.3 || two.3.starts_with(&format!("{}/", one.3));
            prop_assert_eq!(covers, same_hub && below);
        }

        #[test]
        fn any_text_is_refused_or_says_the_same_again(text in ".{0,40}|https?://.{0,30}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                let shown = endpoint.to_string();
                prop_assert!(!shown.contains(['?', '#']), "{}", shown);
                prop_assert!(shown.parse::<Endpoint>().is_ok_and(|again| again.covers(&endpoint)));
            }
        }
    }
}
