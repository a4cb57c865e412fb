//! syslog-ng, which Debian does not install beside rsyslog: it runs from where its package is unpacked.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Certificates, server::Transport, syslog::RECEIVED};
use crate::needs;

/// What starts it.
pub(super) fn configure(
    directory: &Path,
    address: SocketAddr,
    transport: Transport,
    certificates: &Certificates,
) -> Result<Command> {
    let transport = match transport {
        Transport::Udp => "transport(\"udp\")".to_owned(),
        Transport::Tcp => "transport(\"tcp\")".to_owned(),
        Transport::Tls => format!(
            "transport(\"tls\") tls(ca-file(\"{}\") cert-file(\"{}\") key-file(\"{}\") peer-verify(required-trusted))",
            certificates.text("ca.pem"),
            certificates.text("server.pem"),
            certificates.text("server.key"),
        ),
    };
    // What it has read and not written yet is bounded by the flow control alone.
    let config = format!(
        "@version: current\n\
         options {{ use-dns(no); }};\n\
         source guard {{ syslog(ip(\"127.0.0.1\") port({}) {transport}); }};\n\
         destination received {{ file(\"{}\" template(\"$PRI $ISODATE $PROGRAM $MSGID $MSG\\n\")); }};\n\
         log {{ source(guard); destination(received); flags(flow-control); }};\n",
        address.port(),
        directory.join(RECEIVED).display(),
    );
    let file = directory.join("syslog-ng.conf");
    fs::write(&file, config)?;

    let root = needs::unpacked("syslog-ng-core")?;
    let own = root.join("usr/lib/syslog-ng");
    let multiarch = format!("{}-linux-gnu", env::consts::ARCH);
    let libraries = [own.clone(), root.join("usr/lib").join(&multiarch), root.join("lib").join(&multiarch)];
    let mut command = Command::new(root.join("usr/sbin/syslog-ng"));
    command.args(["--foreground", "--stderr", "--no-caps"]);
    command.env("LD_LIBRARY_PATH", env::join_paths(libraries)?);
    for (option, path) in [
        ("cfgfile", file),
        ("module-path", modules(&own)?),
        ("persist-file", directory.join("persist")),
        ("pidfile", directory.join("pid")),
        ("control", directory.join("control")),
    ] {
        command.arg(format!("--{option}={}", path.display()));
    }
    Ok(command)
}

/// The directory among its libraries that has the modules, and is called as its version.
fn modules(libraries: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(libraries)?.flatten().map(|entry| entry.path());
    entries.find(|path| path.is_dir()).with_context(|| format!("{} has no modules", libraries.display()))
}
