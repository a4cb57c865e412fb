//! Global functions: the verifier checks each of them once.
//!
//! It walks through an ordinary function once for each path that leads to it, and again for every program. It checks a
//! function with global linkage once, for any arguments; to a caller such a function is one instruction. (Linux 5.6.
//! Before 5.12 the arguments are numbers only, so each function looks up memory and policy by itself.)
//!
//! Their symbols begin with `fw_`: the names are those that `bpftool prog dump` and the verifier's log show.

use monitor_common::{decide, decide::Subject, dns::Found};

use crate::{
    emit,
    facts::path::{self, Bytes, Climb},
    hooks::{dns, names},
    lookups::{Maps, subject_of},
    maps::{self, Scratch},
};

#[inline(always)]
fn with(buffer: u32, epoch: u32, slot: u32) -> Option<(Maps, Subject<'static>, &'static mut Scratch)> {
    Some((Maps { buffer }, subject_of(epoch, slot as u16)?, maps::buffer(buffer)?))
}

/// [`decide::step`] along the text `which` of the verdict by name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_step(buffer: u32, epoch: u32, slot: u32, which: u32) -> u32 {
    let Some((maps, subject, scratch)) = with(buffer, epoch, slot) else { return 0 };
    let Scratch { pending, work, .. } = scratch;
    decide::step(&maps, &subject, &Bytes(&pending.texts[which as usize & 1]), work).into()
}

/// [`decide::weigh_node`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_weigh_node(buffer: u32, epoch: u32, slot: u32, node: u32) -> u32 {
    let Some((maps, subject, scratch)) = with(buffer, epoch, slot) else { return 0 };
    decide::weigh_node(&maps, &subject, node, &mut scratch.work);
    0
}

/// [`decide::weigh_place`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_weigh_place(buffer: u32, epoch: u32, slot: u32) -> u32 {
    let Some((maps, subject, scratch)) = with(buffer, epoch, slot) else { return 0 };
    decide::weigh_place(&maps, &subject, &mut scratch.work);
    0
}

/// [`decide::locate`] from the location.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_locate(buffer: u32, epoch: u32, slot: u32) -> u32 {
    let Some((maps, subject, scratch)) = with(buffer, epoch, slot) else { return 0 };
    let location = scratch.location();
    let Scratch { dentries, work, .. } = scratch;
    decide::locate(&maps, &subject, &mut Climb::new(location, dentries), work);
    0
}

/// [`names::note_of`] the inode that is looked at.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_note_of(buffer: u32, epoch: u32, slot: u32, index: u32) -> u32 {
    let Some(scratch) = maps::buffer(buffer) else { return 0 };
    names::note_of(scratch.links.inode.get(), epoch, slot, index)
}

/// [`names::next`] of the inode that is looked at.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_next_name(buffer: u32) -> u32 {
    let Some(scratch) = maps::buffer(buffer) else { return 0 };
    names::next(scratch) as u32
}

/// [`decide::give_up`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_give_up(buffer: u32) -> u32 {
    let Some(scratch) = maps::buffer(buffer) else { return 0 };
    decide::give_up(&mut scratch.work);
    0
}

/// Writes down in the record who the current task is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_current_task(buffer: u32) -> u32 {
    let Some(scratch) = maps::buffer(buffer) else { return 0 };
    emit::current_task(&mut scratch.event);
    0
}

/// [`path::write_names`] from the location up into the record's tail.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_write_names(buffer: u32, from: u32) -> u32 {
    let Some(scratch) = maps::buffer(buffer) else { return 0 };
    let (dentry, mount) = scratch.location();
    let Scratch { tail, path_len: len, .. } = scratch;
    path::write_names(dentry, mount, tail, len, from)
}

/// [`decide::named`]; the address in two words, the port in the lower half of the last number and the protocol above it.
/// Answers with a rule as a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_named(epoch: u32, slot: u32, high: u64, low: u64, port: u32) -> u32 {
    let Some(subject) = subject_of(epoch, slot as u16) else { return 0 };
    // SAFETY: both are sixteen plain bytes.
    let address: [u8; 16] = unsafe { core::mem::transmute([high, low]) };
    let rule = decide::named(&Maps::WITHOUT_BUFFER, &subject, &address, port as u16, (port >> 16) as u8);
    let [low, high] = rule.id.to_le_bytes();
    u32::from_le_bytes([low, high, rule.verdict, rule.fallback])
}

/// [`dns::message`] in the memory of answers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_dns_message(base: u32, len: u32, instance: u32, epoch: u32) -> u32 {
    let Some(message) = maps::message() else { return 0 };
    dns::message(message, base, len, instance, epoch).is_some().into()
}

/// [`monitor_common::dns::Message::take_name`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_dns_name() -> u32 {
    let Some(message) = maps::message() else { return 0 };
    message.take_name().into()
}

/// [`monitor_common::dns::Message::fill_key`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_dns_key(instance: u32, epoch: u32) -> u32 {
    let Some(message) = maps::message() else { return 0 };
    message.fill_key(instance as u8, epoch as u8);
    0
}

/// [`monitor_common::dns::Message::next_record`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_dns_record() -> u32 {
    let Some(message) = maps::message() else { return Found::Nothing as u32 };
    message.next_record() as u32
}

/// [`dns::bind`]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fw_dns_bind(instance: u32) -> u32 {
    if let Some(message) = maps::message() {
        dns::bind(message, instance);
    }
    0
}
