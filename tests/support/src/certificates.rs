//! An authority of a test's own, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tempfile::TempDir;

/// An authority, a certificate for a server on this machine and one for a client, as PEM files in
/// a directory of their own, which goes with them.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes them. Nobody else's authority signs them, and no two calls share one.
    ///
    /// # Panics
    /// If they cannot be made or written.
    pub fn make() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
        params
            .distinguished_name
            .push(DnType::CommonName, "a test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let made = Self { directory };
        made.write("ca.pem", authority.pem());
        let purposes = [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (name, purpose) in purposes {
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).expect("names");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![purpose];
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            made.write(&format!("{name}.pem"), certificate.pem());
            made.write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        made
    }

    fn write(&self, name: &str, text: String) {
        std::fs::write(self.file(name), text).expect("a file in a temporary directory");
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A server's certificate, for `localhost` and 127.0.0.1, and its key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.file("server.pem"), self.file("server-key.pem"))
    }

    /// A client's certificate and its key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client.pem"), self.file("client-key.pem"))
    }

    /// Lines for the configuration of a nats-server that wants TLS, and a client's certificate if
    /// it is told to.
    pub fn nats_config(&self, wants_client: bool) -> String {
        let (certificate, key) = self.server();
        let ca = self.ca();
        format!(
            "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {wants_client} }}\n"
        )
    }

    /// Options of a redis-server that listens with TLS on one more port and wants a client's
    /// certificate there if it is told to.
    pub fn redis_options(&self, port: u16, wants_client: bool) -> Vec<String> {
        let (certificate, key) = self.server();
        let text = |path: PathBuf| path.display().to_string();
        let wants = if wants_client { "yes" } else { "no" };
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", text(certificate)),
            ("--tls-key-file", text(key)),
            ("--tls-ca-cert-file", text(self.ca())),
            ("--tls-auth-clients", wants.to_owned()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
    }
}
