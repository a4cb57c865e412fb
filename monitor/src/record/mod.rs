//! A record of the kernel as an event: decoded, enriched with names and lineage, rendered as OCSF and as a sentence.

pub mod activity;
pub mod decode;
pub mod enrich;
pub mod hostnames;
pub mod lineage;
pub mod names;
pub mod sentence;
pub mod tunnel;
