use proptest::prelude::*;

use super::*;

const FILE: &str = "/home/n/.node-red/settings.js";

fn parse(text: &str) -> Settings {
    let environment = Environment { complete: true, ..Environment::default() };
    Settings::parse(text, Path::new(FILE), &environment, Some(Path::new("/home/n")))
}

fn exports(body: &str) -> Settings {
    parse(&format!("module.exports = {{ {body} }}"))
}

#[test]
fn nothing_but_the_defaults_is_said_of_an_empty_object() {
    let settings = exports("");
    assert_eq!((settings.ui_port.known(), settings.ui_host.known().unwrap().as_str()), (Some(&1880), "0.0.0.0"));
    assert!(settings.admin_auth.is(&false) && settings.https.is(&false) && settings.admin_root.is(&true));
    assert!(settings.palette_install.is(&true) && settings.function_modules.is(&true) && settings.projects.is(&false));
    assert_eq!(settings.credential_secret, CredentialSecret::Generated);
    assert_eq!(settings.unknown(), [""; 0]);
}

#[test]
fn every_key_is_read() {
    let settings = exports(
        r#"uiPort: 1881, uiHost: "127.0.0.1", https: { key: require("fs").readFileSync('tls/key.pem'),
        cert: require('node:fs').readFileSync("/etc/cert.pem") }, adminAuth: { type: "credentials", users: [],
        default: { permissions: "read" } }, httpAdminRoot: '/admin', httpNodeAuth: { user: "u", pass: "p" },
        httpStatic: [{ path: '/srv', root: '/' }], httpStaticAuth: {user: "", pass: ""},
        externalModules: { palette: { allowInstall: false }, modules: { allowInstall: false } },
        functionExternalModules: false, functionGlobalContext: { os: require('os'), lodash: require("lodash") },
        editorTheme: { projects: { enabled: true } }, flowFile: 'my.json', userDir: '/data', nodesDir: '/nodes',
        credentialSecret: "s3cret", logging: { console: { audit: true } }, "#,
    );
    assert_eq!((settings.ui_port.known(), settings.ui_host.known().unwrap().as_str()), (Some(&1881), "127.0.0.1"));
    let reads: Vec<_> =
        settings.reads.iter().map(|read| (read.role.as_deref().unwrap(), read.path.to_str().unwrap())).collect();
    assert_eq!(reads, [("cert", "/etc/cert.pem"), ("key", "/home/n/tls/key.pem")]);
    assert!(settings.admin_auth.is(&true) && settings.anonymous.is(&Some("read".to_owned())));
    assert!(settings.http_node_auth.is(&true) && settings.http_static.is(&true) && settings.http_static_auth.is(&true));
    assert!(settings.palette_install.is(&false) && settings.module_install.is(&false));
    assert!(settings.function_modules.is(&false) && settings.global_context.is(&vec!["os".to_owned()]));
    assert!(settings.projects.is(&true) && settings.flow_file.is(&Some("my.json".to_owned())));
    assert!(settings.user_dir.is(&Some("/data".into())) && settings.nodes_dir.is(&Some("/nodes".into())));
    assert_eq!(settings.credential_secret, CredentialSecret::Given);
    assert!(settings.audit_log.is(&true));
    let shown = serde_json::to_string(&settings).unwrap();
    assert!(!shown.contains("s3cret"), "a secret is shown: {shown}");
}

#[test]
fn the_environment_answers_where_it_is_known() {
    let text = "module.exports = { uiPort: process.env.PORT || 1880, uiHost: process.env['HOST'] ?? '::' }";
    assert_eq!(parse(text).ui_port, Fact::Known(1880));
    assert_eq!(parse(text).ui_host, Fact::Known("::".to_owned()));
    let set = [("PORT".to_owned(), "1990".to_owned())].into();
    let given = Settings::parse(text, Path::new(FILE), &Environment { set, complete: false }, None);
    assert_eq!(given.ui_port, Fact::Known(1990));
    assert_eq!(given.ui_host, Fact::unknown("the environment variable HOST"));
    assert_eq!(given.unknown(), ["uiHost: the environment variable HOST"]);
    let set = [("NODE_RED_ENABLE_PROJECTS".to_owned(), "true".to_owned())].into();
    assert!(Settings::parse(text, Path::new(FILE), &Environment { set, complete: true }, None).projects.is(&true));
}

#[test]
fn what_is_computed_is_said_to_be_unknown() {
    for (body, key) in [
        ("uiPort: getPort()", "uiPort"),
        ("uiPort: 1 ? 2 : 3", "uiPort"),
        ("uiPort: a.b.c", "uiPort"),
        ("uiHost: `${host}`", "uiHost"),
        ("https: require('./tls')()", "https"),
        ("adminAuth: makeAuth(1, {a: [2]}), uiPort: 1", "adminAuth"),
        ("get adminAuth() { return 1 }", "adminAuth"),
        ("flowFile: 'a' + name", "flowFile"),
    ] {
        let unknown = exports(body).unknown();
        assert!(unknown.iter().any(|line| line.starts_with(&format!("{key}: "))), "{body}: {unknown:?}");
    }
    let spread = exports("uiPort: 1, ...base, uiHost: 'h'");
    assert!(spread.ui_port.known().is_none() && spread.admin_auth.known().is_none());
    assert_eq!(spread.ui_host, Fact::Known("h".to_owned()));
    assert!(exports("uiPort: 1, [key()]: { a: 1 }, uiHost: 'h'").admin_auth.known().is_none());
    for text in [
        "module.exports = require('./other')",
        "module.exports = function() { return { uiPort: 1 } }",
        "module.exports = Object.assign({}, base, { uiPort: 1 })",
        "module.exports = async () => ({ uiPort: 1 })",
        "// nothing",
        "",
        "\u{0}\u{1}\u{fffd}",
    ] {
        assert!(parse(text).admin_auth.known().is_none(), "{text}: {:?}", parse(text));
    }
}

#[test]
fn constants_and_later_assignments_are_followed() {
    let settings = parse(
        "const path = require('path')\nconst port = 1234, base = { uiHost: '127.0.0.1' }\n\
         let settings = { uiPort: port, ...base, flowFile: path.join(__dirname, 'f', '/g.json') }\n\
         settings.httpNodeAuth = { user: 'a' };\nmodule.exports = settings\nsettings.https = {}\n\
         module.exports.editorTheme = { palette: { editable: false } }",
    );
    assert_eq!((settings.ui_port, settings.ui_host), (Fact::Known(1234), Fact::Known("127.0.0.1".into())));
    assert_eq!(settings.flow_file, Fact::Known(Some("/home/n/.node-red/f/g.json".into())));
    assert!(settings.http_node_auth.is(&true) && settings.https.is(&true) && settings.palette_install.is(&false));
    let settings = parse("exports.uiPort = 5; exports['uiHost'] = 'h'");
    assert_eq!((settings.ui_port, settings.ui_host), (Fact::Known(5), Fact::Known("h".into())));
    let settings = parse("const s = module.exports = { uiPort: 5 }\ns.uiHost = 'h'");
    assert_eq!((settings.ui_port, settings.ui_host), (Fact::Known(5), Fact::Known("h".into())));
}

#[test]
fn what_happens_in_a_branch_may_not_happen() {
    for text in [
        "module.exports = { uiPort: 1, adminAuth: {} }\nif (x) { delete y; module.exports.adminAuth = null }",
        "const s = { uiPort: 1, adminAuth: {} }\nif (x) s.adminAuth = undefined\nmodule.exports = s",
        "module.exports = { uiPort: 1, adminAuth: {} }\nfunction f() { exports.adminAuth ||= 1 }",
    ] {
        let settings = parse(text);
        assert!(settings.admin_auth.known().is_none() && settings.ui_port.is(&1), "{text}: {settings:?}");
    }
    let text = "module.exports = { uiPort: 1 }; Object.assign(module.exports, other)";
    assert!(parse(text).ui_port.known().is_none());
}

#[test]
fn keys_that_a_function_reads_are_found() {
    let settings = exports(
        "https: function() { return Promise.resolve({ key: require('fs').readFileSync('privkey.pem'),
         cert: require('fs').readFileSync(`cert.pem`) }) }, httpsRefreshInterval: 12,",
    );
    assert!(settings.https.is(&true));
    let paths: Vec<_> =
        settings.reads.iter().map(|read| (read.role.as_deref().unwrap(), read.path.to_str().unwrap())).collect();
    assert_eq!(paths, [("key", "/home/n/privkey.pem"), ("cert", "/home/n/cert.pem")]);
}

#[test]
fn a_file_that_is_cut_short_gives_what_stands_in_it() {
    let whole = "module.exports = { uiPort: 1881, adminAuth: { users: [{ username: 'a', password: \"$2b$\" }] }, uiHost: '::1', }";
    for cut in 0..whole.len() {
        let settings = parse(&whole[..cut]);
        assert!(matches!(
            settings.ui_host.known().map(String::as_str),
            None | Some("0.0.0.0" | "" | ":" | "::" | "::1")
        ));
    }
    assert!(parse(&whole[..40]).ui_port.is(&1881));
}

#[test]
fn nesting_and_repetition_end_somewhere() {
    let deep = "[".repeat(200_000);
    for text in [
        format!("module.exports = {{ uiPort: 7, x: {deep} }}"),
        format!("module.exports = {{ uiPort: 7, x: {} }}", "{a:".repeat(100_000)),
        format!("module.exports = {{ uiPort: 7, x: {}1{} }}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("module.exports = {{ uiPort: 7, x: {} 1 }}", "!".repeat(100_000)),
        format!("module.exports = {{ uiPort: 7, x: {} 1 }}", "a => ".repeat(50_000)),
        format!("module.exports = {{ uiPort: 7, x: {}", "`${".repeat(100_000)),
        format!("module.exports = {{ uiPort: 7 }}\n{}", "if (a) exports.x = 1\n".repeat(20_000)),
        format!("module.exports = {{ uiPort: 7 }}\n{}", "module.exports = ".repeat(20_000)),
        format!("module.exports = {{ uiPort: 7, x: [{}] }}", "f(),".repeat(100_000)),
        format!("{}module.exports = a", "const a = [a, a, a, a]\n".repeat(10_000)),
        format!("const a = [1, 1]\n{}module.exports = {{ uiPort: 7, a }}", "a[0] = a\n".repeat(10_000)),
    ] {
        let start = std::time::Instant::now();
        parse(&text);
        assert!(start.elapsed().as_secs() < 20, "{:?} for {}", start.elapsed(), &text[..60]);
    }
}

#[test]
fn a_file_that_is_no_settings_file_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path()).unwrap();
    let read = |name: &str| Settings::read(&root, Path::new(name), &Environment::default(), None);
    std::fs::write(directory.path().join("large.js"), " ".repeat(10 << 20)).unwrap();
    std::fs::create_dir(directory.path().join("directory.js")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", directory.path().join("link.js")).unwrap();
    std::fs::write(directory.path().join("bytes.js"), b"module.exports = { uiPort: 9, x: '\xff\xfe' }").unwrap();
    for (name, part) in [
        ("/large.js", "more than"),
        ("/directory.js", "regular file"),
        ("/link.js", "No such file"),
        ("/none.js", "No such file"),
    ] {
        let error = read(name).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains(part), "{error}");
    }
    assert!(read("/bytes.js").unwrap().ui_port.is(&9), "what is no UTF-8 is replaced");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        parse(&text);
    }

    #[test]
    fn no_settings_like_text_makes_it_panic(
        body in "((module\\.exports|exports|const a|a|uiPort|https|function|async|require|process\\.env|readFileSync|if)|[ \n.,:;={}()\\[\\]`'\"/!?|&+]|=>|\\.\\.\\.|\\$\\{|[0-9]){0,80}"
    ) {
        parse(&body);
        exports(&body);
    }
}
