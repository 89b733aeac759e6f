//! Starting the hub and steering it, in process; the admin API does the same over HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admin::{
    AccessSpec, CommitSpec, Counters, Fault, FaultStatus, LoggedRequest, RefSpec, Rename,
    RepositorySpec, RepositoryStatus, Settings, Token,
};
use crate::admin_server;
use crate::budget::Budgets;
use crate::connection::{Client, Port};
use crate::counting::Counting;
use crate::fault::Faults;
use crate::load::load_directory;
use crate::locks::{read, write};
use crate::repository::ContentError;
use crate::server::{cdn_router, hub_router};
use crate::shared::Shared;
use crate::signature::Signer;
use crate::throttle::Throttle;

/// Why the hub did not start.
#[derive(Debug, Error)]
pub enum HubError {
    /// A port could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or its key is unusable.
    #[error("cannot use the TLS certificate or key: {0}")]
    Tls(String),
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

/// How to start a hub. The default listens on free ports of 127.0.0.1 and announces the CDN as `localhost`: real
/// clients tell hub and CDN apart by the host's name, not by its port.
#[derive(Clone)]
pub struct HubOptions {
    /// Where the hub listens.
    pub hub_listen: SocketAddr,
    /// Where the CDN listens.
    pub cdn_listen: SocketAddr,
    /// Where the admin API listens.
    pub admin_listen: SocketAddr,
    /// The address of the hub in links; without it, as the request says.
    pub hub_url: Option<String>,
    /// The address of the CDN in redirects; without it `localhost` and the CDN's port.
    pub cdn_url: Option<String>,
    /// Makes hub and CDN speak HTTPS.
    pub tls: Option<Tls>,
    /// The settings to start with.
    pub settings: Settings,
}

impl Default for HubOptions {
    fn default() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            hub_listen: any_port,
            cdn_listen: any_port,
            admin_listen: any_port,
            hub_url: None,
            cdn_url: None,
            tls: None,
            settings: Settings::default(),
        }
    }
}

/// Where the ports are.
struct Addresses {
    hub: SocketAddr,
    cdn: SocketAddr,
    admin: SocketAddr,
}

/// A running hub; it ends when this is dropped.
pub struct Hub {
    shared: Arc<Shared>,
    addresses: Addresses,
    _stop: DropGuard,
}

impl Hub {
    /// Starts a hub on the current runtime.
    pub async fn start(options: HubOptions) -> Result<Self, HubError> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let tls = options.tls.as_ref().map(acceptor).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listen = |address| move |source| HubError::Listen { address, source };
        let (hub_port, hub) = Port::open(options.hub_listen, tls.clone(), stop.clone())
            .await
            .map_err(listen(options.hub_listen))?;
        let (cdn_port, cdn) = Port::open(options.cdn_listen, tls, stop.clone())
            .await
            .map_err(listen(options.cdn_listen))?;
        let admin_port = TcpListener::bind(options.admin_listen)
            .await
            .map_err(listen(options.admin_listen))?;
        let address =
            |address: std::io::Result<SocketAddr>| address.map_err(listen(options.hub_listen));
        let hub_address = address(axum::serve::Listener::local_addr(&hub_port))?;
        let cdn_address = address(axum::serve::Listener::local_addr(&cdn_port))?;
        let admin_address = address(admin_port.local_addr())?;
        let trim = |url: String| url.trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared {
            catalogue: RwLock::default(),
            tokens: RwLock::default(),
            settings: RwLock::new(Settings::default()),
            budgets: Budgets::default(),
            faults: Faults::default(),
            counting: Counting::default(),
            signer: Signer::new(),
            throttle: Arc::new(Throttle::new(None)),
            cdn_url: options.cdn_url.map_or_else(
                || format!("{scheme}://localhost:{}", cdn_address.port()),
                trim,
            ),
            hub_url: options.hub_url.map(trim),
            scheme,
            hub,
            cdn,
            changing: tokio::sync::Mutex::default(),
            requests: Mutex::default(),
        });
        let hub_service =
            hub_router(shared.clone()).into_make_service_with_connect_info::<Client>();
        let cdn_service =
            cdn_router(shared.clone()).into_make_service_with_connect_info::<Client>();
        let admin_service = admin_server::router(shared.clone());
        serve(&stop, axum::serve(hub_port, hub_service).into_future());
        serve(&stop, axum::serve(cdn_port, cdn_service).into_future());
        serve(&stop, axum::serve(admin_port, admin_service).into_future());
        let hub = Self {
            shared,
            addresses: Addresses {
                hub: hub_address,
                cdn: cdn_address,
                admin: admin_address,
            },
            _stop: guard,
        };
        hub.set_settings(options.settings).await;
        Ok(hub)
    }

    /// The hub's base address, what `HF_ENDPOINT` is set to.
    #[must_use]
    pub fn url(&self) -> String {
        let own = || format!("{}://{}", self.shared.scheme, self.addresses.hub);
        self.shared.hub_url.clone().unwrap_or_else(own)
    }

    /// The CDN's base address.
    #[must_use]
    pub fn cdn_url(&self) -> String {
        self.shared.cdn_url.clone()
    }

    /// The admin API's base address.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.addresses.admin)
    }

    /// Where the hub listens.
    #[must_use]
    pub fn hub_address(&self) -> SocketAddr {
        self.addresses.hub
    }

    /// Where the CDN listens.
    #[must_use]
    pub fn cdn_address(&self) -> SocketAddr {
        self.addresses.cdn
    }

    /// Makes a repository; the answer is its first commit. Blocks while the contents are hashed.
    pub fn add_repository(&self, spec: &RepositorySpec) -> Result<String, ContentError> {
        self.shared.add_repository(spec)
    }

    /// Makes a repository of the files in a directory.
    pub fn load_directory(&self, directory: &Path, name: &str) -> Result<String, ContentError> {
        self.shared
            .add_repository(&load_directory(directory, name)?)
    }

    /// Adds a commit; the answer is its id. Blocks while the contents are hashed.
    pub fn commit(&self, spec: &CommitSpec) -> Result<String, ContentError> {
        self.shared.commit(spec)
    }

    /// Sets a branch, tag or other ref; the answer is its commit.
    pub fn set_ref(&self, spec: &RefSpec) -> Result<String, ContentError> {
        write(&self.shared.catalogue).set_ref(spec)
    }

    /// Renames a repository; the old name redirects.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), ContentError> {
        let rename = Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        write(&self.shared.catalogue).rename(&rename)
    }

    /// Changes who may read a repository.
    pub fn set_access(&self, spec: &AccessSpec) -> Result<(), ContentError> {
        write(&self.shared.catalogue).set_access(spec)
    }

    /// What repositories there are.
    #[must_use]
    pub fn repositories(&self) -> Vec<RepositoryStatus> {
        read(&self.shared.catalogue).status()
    }

    /// Replaces all tokens.
    pub fn set_tokens(&self, tokens: Vec<Token>) {
        *write(&self.shared.tokens) = tokens;
    }

    /// The settings now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        read(&self.shared.settings).clone()
    }

    /// Replaces the settings; returns when they hold, closed ports included.
    pub async fn set_settings(&self, settings: Settings) {
        self.shared.set_settings(settings).await;
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.shared.faults.set(faults);
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) {
        self.shared.faults.add(fault);
    }

    /// The faults with how often each happened.
    #[must_use]
    pub fn faults(&self) -> Vec<FaultStatus> {
        self.shared.faults.status()
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Sets all counters to zero and empties the log.
    pub fn reset_counters(&self) {
        self.shared.counting.reset();
    }

    /// The latest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.shared.counting.requests()
    }
}

fn serve(
    stop: &CancellationToken,
    server: impl Future<Output = std::io::Result<()>> + Send + 'static,
) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            result = server => if let Err(error) = result {
                tracing::error!(%error, "a server ended");
            },
        }
    });
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, HubError> {
    let problem = |error: &dyn std::fmt::Display| HubError::Tls(error.to_string());
    let chain = CertificateDer::pem_slice_iter(&tls.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|error| problem(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| problem(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| problem(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
