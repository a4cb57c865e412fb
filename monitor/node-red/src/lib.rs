//! Node-RED as seen from outside: [`instance`] finds installations, reads their settings and audits them, [`change`] reports
//! what changes in their flows, [`deploys`] who deployed.

pub mod change;
pub mod deploys;
pub mod instance;
