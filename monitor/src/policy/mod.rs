//! stub
pub mod compile;
