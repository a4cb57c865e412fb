//! Rule 3: the editor is not reachable from the Internet and requires authentication.

use std::net::{IpAddr, Ipv4Addr};

use super::{Finding, Fix, Status, Subject};
use crate::instance::{
    network::{self, is_public},
    settings::{Fact, Settings},
};

const RULE: u8 = 3;
/// Settings that bind the editor to loopback.
const LOOPBACK: &str = "uiHost: \"127.0.0.1\",";
/// Advice for authenticated remote access.
const REMOTE: &str = "for remote access use a tunnel or a zero-trust service (WireGuard, ZeroTier, Cloudflare Zero Trust), or a \
                      reverse proxy that authenticates, in front of 127.0.0.1";

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let Some(settings) = &subject.instance.settings else {
        let what = "the settings cannot be read: exposure of the editor is unknown";
        return vec![
            Finding::new("editor-exposed", RULE, Status::Warn, what).because(subject.instance.unknown.clone()),
        ];
    };
    if settings.admin_root.is(&false) {
        return vec![Finding::pass("editor-exposed", RULE, "the editor is disabled (httpAdminRoot: false)")];
    }
    let bound = bound(subject, settings);
    let local = !bound.is_empty() && bound.iter().all(IpAddr::is_loopback);
    vec![
        exposed(subject, settings, &bound),
        auth(settings, local),
        https(settings, local),
        nodes(subject, settings, local),
    ]
}

/// Returns the addresses that the editor is bound to: listening sockets if there are any, the settings otherwise.
fn bound(subject: &Subject<'_>, settings: &Settings) -> Vec<IpAddr> {
    let port = subject.instance.port();
    let listens = subject.instance.listens.iter().filter(|listen| port.is_none_or(|port| port == listen.port));
    let real: Vec<_> = listens.map(|listen| listen.address).collect();
    if !real.is_empty() {
        return real;
    }
    match settings.ui_host.known().map(String::as_str) {
        Some("localhost") => vec![Ipv4Addr::LOCALHOST.into()],
        Some(host) => host.parse().ok().into_iter().collect(),
        None => Vec::new(),
    }
}

fn exposed(subject: &Subject<'_>, settings: &Settings, bound: &[IpAddr]) -> Finding {
    const CHECK: &str = "editor-exposed";
    let port = subject.instance.port().map_or_else(|| "an unknown port".to_owned(), |port| format!("port {port}"));
    let Some(&first) = bound.iter().max_by_key(|address| (is_public(**address), !address.is_loopback())) else {
        let why = settings.ui_host.why().unwrap_or("the host name is resolved at startup");
        return Finding::new(CHECK, RULE, Status::Warn, "the bind address of the editor is unknown")
            .because([format!("uiHost: {why}")])
            .fix([Fix::settings(LOOPBACK)]);
    };
    if bound.iter().all(IpAddr::is_loopback) {
        return Finding::pass(CHECK, RULE, format!("the editor is bound to {first}, {port}"));
    }
    let everywhere = bound.iter().any(IpAddr::is_unspecified);
    let own = if everywhere { network::addresses(subject.instance.pid) } else { bound.to_vec() };
    let public: Vec<_> = own.iter().filter(|address| is_public(**address)).map(ToString::to_string).collect();
    let mut evidence = vec![format!("bound to {first}, {port}")];
    if everywhere {
        let reached: Vec<_> = own.iter().filter(|address| !address.is_loopback()).map(ToString::to_string).collect();
        evidence.push(if reached.is_empty() {
            "its network namespace has no address other than loopback".to_owned()
        } else {
            format!("this includes all addresses of this machine: {}", reached.join(", "))
        });
    }
    let mut fixes = vec![Fix::settings(LOOPBACK), Fix::advice(REMOTE)];
    if subject.instance.is_contained() {
        // A container binds to an address in its own network namespace. Exposure depends on the ports that the host publishes.
        fixes = vec![
            Fix::advice("publish the port on the host's loopback only: -p 127.0.0.1:1880:1880"),
            Fix::advice(REMOTE),
        ];
    }
    let (status, what) = if public.is_empty() {
        (Status::Warn, "the editor is reachable from the network of this machine".to_owned())
    } else {
        (Status::Fail, format!("the editor is bound to public addresses: {}", public.join(", ")))
    };
    Finding::new(CHECK, RULE, status, what).because(evidence).fix(fixes)
}

fn auth(settings: &Settings, local: bool) -> Finding {
    const CHECK: &str = "editor-auth";
    let weaker = |status| if local { Status::Warn } else { status };
    match (&settings.admin_auth, &settings.anonymous) {
        (Fact::Known(false), _) => Finding::new(
            CHECK,
            RULE,
            weaker(Status::Fail),
            "no adminAuth: anyone who reaches the editor can change flows, and through them the machine",
        )
        .because(["CVE-2025-41656 describes devices shipped with this configuration".to_owned()])
        .fix([
            Fix::advice("create the hash of a password: node-red admin hash-pw"),
            Fix::settings(
                "adminAuth: { type: \"credentials\", users: [\n    { username: \"admin\", password: \"THE HASH\", permissions: \"*\" }\n] },",
            ),
        ]),
        (Fact::Known(true), Fact::Known(Some(permissions))) => {
            let writes = permissions.split(", ").any(|one| !matches!(one.rsplit('.').next(), Some("read")));
            let status = if writes { weaker(Status::Fail) } else { Status::Warn };
            Finding::new(CHECK, RULE, status, "adminAuth is set, but grants access without a login")
                .because([format!("adminAuth.default.permissions: {permissions}")])
                .fix([Fix::advice("remove `default` from adminAuth")])
        }
        (Fact::Known(true), Fact::Known(None)) => Finding::pass(CHECK, RULE, "adminAuth requires a login"),
        (auth, anonymous) => {
            let why = auth.why().or(anonymous.why()).unwrap_or_default();
            Finding::new(CHECK, RULE, Status::Warn, "it is unknown whether the editor requires a login")
                .because([format!("adminAuth: {why}")])
        }
    }
}

fn https(settings: &Settings, local: bool) -> Finding {
    const CHECK: &str = "editor-https";
    match &settings.https {
        Fact::Known(true) => Finding::pass(CHECK, RULE, "the editor is served over https"),
        _ if local => Finding::pass(CHECK, RULE, "the editor is bound to loopback, where https is not needed"),
        Fact::Known(false) => {
            Finding::new(CHECK, RULE, Status::Warn, "no https: passwords and flows are sent over the network in clear text").fix([
                Fix::advice(
                    "terminate https at a reverse proxy that forwards to 127.0.0.1, including WebSocket upgrades; Node-RED then needs no key",
                ),
                Fix::settings(LOOPBACK),
            ])
        }
        Fact::Unknown { unknown } => {
            Finding::new(CHECK, RULE, Status::Warn, "it is unknown whether the editor is served over https")
                .because([format!("https: {unknown}")])
        }
    }
}

/// Checks authentication of HTTP nodes, dashboards and static files, which share the editor's port.
fn nodes(subject: &Subject<'_>, settings: &Settings, local: bool) -> Finding {
    const CHECK: &str = "http-auth";
    let types = subject.instance.flows.iter().flat_map(|flows| &flows.types);
    let served: Vec<_> = types
        .filter(|(kind, _)| matches!(kind.as_str(), "http in" | "ui_base" | "ui-base" | "websocket-listener"))
        .map(|(kind, count)| format!("{count} of type {kind}"))
        .collect();
    let files = settings.http_static.is(&true) && !settings.http_static_auth.is(&true);
    if (served.is_empty() || settings.http_node_auth.is(&true)) && !files {
        let what = if served.is_empty() { "flows serve no HTTP endpoints" } else { "httpNodeAuth requires a login" };
        return Finding::pass(CHECK, RULE, what);
    }
    let mut fixes = Vec::new();
    if !served.is_empty() && !settings.http_node_auth.is(&true) {
        fixes.push(Fix::settings("httpNodeAuth: { user: \"user\", pass: \"THE HASH of node-red admin hash-pw\" },"));
    }
    if files {
        fixes.push(Fix::settings("httpStaticAuth: { user: \"user\", pass: \"THE HASH of node-red admin hash-pw\" },"));
    }
    let status = if local { Status::Pass } else { Status::Warn };
    Finding::new(
        CHECK,
        RULE,
        status,
        "pages served by flows are accessible without a login to anyone who can reach the port",
    )
    .because(served)
    .fix(fixes)
}
