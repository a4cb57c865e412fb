//! From a record of the kernel to an event: decoding, names and lineage, OCSF and the message.

pub mod activity;
pub mod decode;
pub mod enrich;
pub mod hostnames;
pub mod lineage;
pub mod names;
pub mod sentence;
pub mod tunnel;
