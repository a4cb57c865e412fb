//! TLS for sinks: the server's certificate is always looked at.

use std::{io, net::TcpStream, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::config::TlsFiles;

/// What a connection is made with. Certificates and keys are read again for each one, so that new ones need no restart.
pub(super) fn config(files: &TlsFiles) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| in_file(&files.ca, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
    let config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, error))?;
            let chain = certificates(certificate)?;
            builder.with_client_auth_cert(chain, own).map_err(|error| in_file(certificate, error))?
        }
    };
    Ok(Arc::new(config))
}

/// Goes on by TLS.
pub(super) fn connect(
    stream: TcpStream,
    host: &str,
    files: &TlsFiles,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host} is no name of a server")))?;
    let mut connection = ClientConnection::new(config(files)?, name).map_err(io::Error::other)?;
    let mut stream = stream;
    // Handshake now, so that a refusal is reported as such.
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The certificates of a file, one at least.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| in_file(path, error))?;
    let found: Result<Vec<_>, _> = read.collect();
    let found = found.map_err(|error| in_file(path, error))?;
    if found.is_empty() {
        return Err(in_file(path, "no certificate in it"));
    }
    Ok(found)
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}
