//! Real receivers of alerts, on loopback ports of their own: they can be killed and started again.

mod alertmanager;
mod certificates;
pub mod dnsmasq;
pub mod journald;
pub mod kafka;
pub mod mail;
pub mod mosquitto;
pub mod nats;
mod rsyslog;
mod server;
mod syslog;
mod syslog_ng;

pub use alertmanager::Alertmanager;
pub use certificates::Certificates;
pub use server::{Server, Transport};
pub use syslog::{Software, Syslog};
