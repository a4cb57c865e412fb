//! `[metrics]` in the policy file.

use std::net::{Ipv4Addr, SocketAddr};

use policy::toml_reader::{Reader, Table, Value};

/// Default address: loopback.
const DEFAULT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9464);

/// Reads the table. Without it metrics are not served.
pub(super) fn read(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<SocketAddr> {
    let value = value?;
    let Some(table) = value.get_ref().as_table() else {
        reader.fault(value.span().start, "`metrics` must be a table: [metrics]");
        return None;
    };
    let mut table = Table::new(table, value.span().start);
    let listen = table.take("listen").map_or(Some(DEFAULT.into()), |value| {
        let text = reader.string(value, "`listen`")?;
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        if address.is_none() {
            reader.fault(
                value.span().start,
                format!(
                    "`listen` is an address with a port, like \"127.0.0.1:9464\" or \"[::1]:9464\", not \"{text}\""
                ),
            );
        }
        address
    });
    reader.finish(&table);
    listen
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const REST: &str = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";

    #[test]
    fn the_page_is_off_then_on_loopback_then_where_it_is_told_to_be() {
        let read = |text: &str| parse(&format!("version = 1\n{text}{REST}")).unwrap().metrics;
        assert_eq!(read(""), None);
        assert_eq!(read("[metrics]\n"), Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(read("[metrics]\nlisten = \"[::1]:99\"\n"), Some("[::1]:99".parse().unwrap()));
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        for (line, fault) in [
            ("listen = \"localhost\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"127.0.0.1:0\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"127.0.0.1:99999\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"127.0.0.1:9464 \"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \":9464\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"::1:9464\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"[::1:9464\"", "line 3, column 10: `listen` is an address with a port"),
            ("listen = \"tcp://127.0.0.1:9464\"", "line 3, column 10: `listen` is an address with a port"),
            ("listne = \"127.0.0.1:1\"", "line 3, column 1: unknown key \"listne\"; did you mean \"listen\"?"),
        ] {
            let faults = parse(&format!("version = 1\n[metrics]\n{line}\n{REST}")).unwrap_err();
            assert!(faults[0].to_string().starts_with(fault), "{line}: {}", faults[0]);
        }
        let faults = parse(&format!("version = 1\nmetrics = true\n{REST}")).unwrap_err();
        assert!(faults[0].to_string().contains("must be a table"), "{}", faults[0]);
    }
}
