//! Certificates as companies have them: a root that is kept away, and one below it that issues.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::needs;

/// A root, an authority below it, and what that issues: a certificate for 127.0.0.1 and one for a client. A client that trusts the
/// root alone believes them only with the authority's certificate behind them.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes all of them.
    pub fn new() -> Result<Self> {
        let certificates = Self { directory: tempfile::tempdir()? };
        let openssl = needs::program("openssl")?;
        let run = |arguments: &str| {
            let mut command = Command::new(&openssl);
            needs::run(command.current_dir(certificates.directory.path()).args(arguments.split(' ')))
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        let issue = |name: &str, issuer: &str, extension: &str| -> Result<()> {
            fs::write(certificates.path("extension"), extension)?;
            run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
            let sign = format!("x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial");
            run(&format!("{sign} -out {name}.pem -days 2 -extfile extension")).map(drop)
        };
        run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-root"))?;
        issue("authority", "ca", "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign\n")?;
        for name in ["server", "client"] {
            issue(name, "authority", "subjectAltName=IP:127.0.0.1\n")?;
            append(&certificates.path("authority.pem"), &certificates.path(&format!("{name}.pem")))?;
        }
        Ok(certificates)
    }

    /// `ca.pem` (the root), `server.pem` and `client.pem` (chains that end below the root), `server.key` or `client.key`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as a text.
    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn append(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read_to_string(to)? + &fs::read_to_string(from)?;
    Ok(fs::write(to, text)?)
}
