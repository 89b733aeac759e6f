//! Certificates, and the token that must not show.

use super::*;

/// Serves one HTTP answer per connection over TLS with a certificate of its own making, which it returns as PEM.
async fn tls_server() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut stream = acceptor.accept(stream).await?;
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await?;
                let body = format!("{{\"sha\":\"{COMMIT}\"}}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    (url, made.cert.pem())
}

#[tokio::test]
async fn an_untrusted_certificate_is_told_apart_and_a_ca_bundle_helps() {
    let (url, pem) = tls_server().await;
    let error = client(&url, None)
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Certificate { .. }),
        "{error:?}"
    );
    assert_eq!(
        client(&url, Some(pem.clone()))
            .resolve("org/model", "main")
            .await
            .unwrap(),
        COMMIT
    );

    let other_name = url.replace("127.0.0.1", "localhost");
    let error = client(&other_name, Some(pem))
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Certificate { .. }),
        "{error:?}"
    );
}

#[test]
fn a_client_shows_no_token() {
    let client = client("https://hub.example", None);
    assert!(!format!("{client:?}").contains(TOKEN));
}
