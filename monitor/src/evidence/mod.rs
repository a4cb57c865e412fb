//! Reads the journal back.
//!
//! [`stream`] iterates over its events, [`mod@line`] is the part of an event that is needed here. [`simulate`] judges events by
//! another policy, [`explain`] describes events and rules, [`learn`] derives a policy. [`idiom`] knows what Node-RED does by itself,
//! [`critical`] what no policy should allow without a decision.

#[cfg(test)]
mod bare;
pub mod critical;
pub mod explain;
pub mod idiom;
pub mod learn;
pub mod line;
pub mod simulate;
pub mod stream;
