//! stub
use monitor_common::{policy::*, scope::Selector};
/// stub
#[derive(Default)]
pub struct Compiled { pub inodes: Vec<(InodeKey,u32)>, pub children: Vec<(ChildKey,u32)>, pub nodes: Vec<(NodeKey,Node)>, pub patterns: Vec<(PatternKey,u32,Pattern)>, pub nets: Vec<(NetKey,u32,NetRules)>, pub instances: Vec<(u16,Instance)>, pub selectors: Vec<Selector> }
