use monitor::{kernel::load::Kernel, policy::compile::Compiled};
use monitor_common::{policy::*, scope::*, name::Name};
fn main() -> anyhow::Result<()> {
    let mut k = Kernel::load()?;
    let f = std::path::Path::new("/tmp/fwt/settings.js");
    let id = k.identify(f)?; println!("{id:?}");
    let dir = k.identify(f.parent().unwrap())?.unwrap();
    let epoch = k.next_epoch();
    let mut own = [Rule::default(); 8]; own[1] = Rule { id: 1, verdict: 4, fallback: 0 };
    let c = Compiled {
        inodes: vec![(InodeKey { id: dir, epoch, instance: 0 }, 1), (InodeKey { id: id.unwrap(), epoch, instance: 0 }, 2)],
        children: vec![(ChildKey { epoch, node: 1, name: Name::new(b"settings.js").unwrap() }, 2)],
        nodes: vec![(NodeKey { epoch, node: 1 }, Node { flags: 1, parent: 1, ..Default::default() }), (NodeKey { epoch, node: 2 }, Node { own, parent: 1, ..Default::default() })],
        instances: vec![(0, Instance { enforce: 1, used: 1, ..Default::default() })],
        selectors: vec![Selector { uid: 61999, flags: SELECT_UID, ..Default::default() }],
        ..Default::default()
    };
    k.install(&c)?;
    k.attach_scope()?; k.attach_syscalls()?; for d in k.degraded() { println!("DEGRADED {} {}", d.hook, { let t=&d.why; format!("{} ... {}", &t[..t.len().min(120)], &t[t.len().saturating_sub(400)..]) }); }
    let mut ring = k.events()?;
    for _ in 0..100 { std::thread::sleep(std::time::Duration::from_millis(100)); while let Some(r) = ring.next() { println!("{} bytes hook {} verdict {} {:?}", r.len(), r[4*8*4+8+8+8], r[0], String::from_utf8_lossy(&r[296..])); } }
    println!("{:?}", k.counters()?);
    Ok(())
}
