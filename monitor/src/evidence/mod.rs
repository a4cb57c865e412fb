//! The journal read back: what another policy had done about it, what an event or a rule means, what a policy could learn.
//!
//! [`mod@line`] is an event as far as these need it, [`stream`] gives the events one after the other. [`simulate`] judges them
//! by another policy, [`explain`] says in words what they are, [`learn`] makes a policy of them. [`idiom`] is what honest Node-RED does, [`critical`] what
//! nobody should get used to.

#[cfg(test)]
mod bare;
pub mod critical;
pub mod explain;
pub mod idiom;
pub mod learn;
pub mod line;
pub mod simulate;
pub mod stream;
