//! `serve` with TLS, and the commands that talk to it.

use std::{fs, path::Path, sync::Arc};

use fanfare_testkit::{Fanfare, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::run::{SOON, run, server};

/// The files of a listener's TLS, and the authority that they are of.
struct Files {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
            authority: CertifiedIssuer::self_signed(params, key).unwrap(),
        };
        files.write("ca.pem", &files.authority.pem());
        files.renew(2040);
        files
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A new certificate with a new key.
    fn renew(&self, until: i32) {
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write("tls.crt", &certificate.pem());
        self.write("tls.key", &key.serialize_pem());
    }

    fn config(&self) -> String {
        let (cert, key) = (self.path("tls.crt"), self.path("tls.key"));
        format!(
            "[server.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\nreload_interval = \"1s\"\n"
        )
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("tls.crt")).unwrap()
    }

    /// The certificate that the server shows.
    async fn shown(&self, server: &Fanfare) -> CertificateDer<'static> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(server.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let stream = connector.connect(name, socket).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

fn url(server: &Fanfare) -> String {
    format!("https://{}", server.address())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn the_commands_speak_https() {
    let files = Files::new();
    let server = server(&files.config()).start().await;
    let url = url(&server);
    let ca = files.path("ca.pem");
    let trusting = [("SSL_CERT_FILE", text(&ca))];
    let published = run(&["publish", "a", "hello", "--url", &url], &trusting, b"").await;
    assert_eq!(published.code, 0, "{published:?}");
    let arguments = [
        "subscribe",
        "a",
        "--url",
        &url,
        "--since",
        "oldest",
        "--count",
        "1",
    ];
    let heard = run(&arguments, &trusting, b"").await;
    assert_eq!(
        (heard.code, heard.out.contains("hello")),
        (0, true),
        "{heard:?}"
    );

    // A server that no authority vouches for is not talked to.
    let stranger = Files::new();
    let ca = stranger.path("ca.pem");
    let trusting = [("SSL_CERT_FILE", text(&ca))];
    let refused = run(&["publish", "a", "secret", "--url", &url], &trusting, b"").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("certificate"), "{refused:?}");
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_without_a_signal() {
    let files = Files::new();
    let mut server = server(&files.config()).start().await;
    assert_eq!(files.shown(&server).await, files.certificate());
    let first = files.certificate();

    // Half of a renewal: the pair from before stays, and that is said once.
    let key = fs::read_to_string(files.path("tls.key")).unwrap();
    files.renew(2050);
    let renewed = fs::read_to_string(files.path("tls.key")).unwrap();
    files.write("tls.key", &key);
    let said = async |server: &Fanfare, word: &str| {
        eventually(word, SOON, async || {
            server.output().contains(word).then_some(())
        })
        .await;
    };
    said(&server, "the certificate from before stays").await;
    assert_eq!(files.shown(&server).await, first);
    files.write("tls.key", &renewed);
    said(&server, "is renewed").await;
    assert_eq!(files.shown(&server).await, files.certificate());

    // SIGHUP looks at once.
    files.renew(2060);
    server.signal("HUP");
    let taken = async || (files.shown(&server).await == files.certificate()).then_some(());
    eventually("the certificate of 2060", SOON, taken).await;
    let output = server.output();
    assert_eq!(output.matches("from before stays").count(), 1, "{output}");
    assert!(!output.contains("PRIVATE KEY"), "{output}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    files.write("empty", "");
    for (name, with, key) in [
        ("tls.crt", "nowhere", "server.tls.cert_file"),
        ("tls.key", "empty", "server.tls.key_file"),
        ("tls.key", "ca.pem", "server.tls.key_file"),
    ] {
        let config = files.config().replace(name, with);
        let file = files.path("fanfare.toml");
        fs::write(&file, config).unwrap();
        let checked = run(&["check-config", "--config", text(&file)], &[], b"").await;
        assert_eq!(checked.code, 2, "{checked:?}");
        assert!(
            checked.err.contains(key) && checked.err.contains(with),
            "{checked:?}"
        );
    }
    let file = files.path("half.toml");
    fs::write(&file, "[server.tls]\nhttp2 = true\n").unwrap();
    let checked = run(&["check-config", "--config", text(&file)], &[], b"").await;
    for key in ["server.tls.cert_file", "server.tls.key_file"] {
        assert!(checked.err.contains(key), "{checked:?}");
    }
}
