//! Commands to open files (`ioctl`) that change them.

use crate::Access;

/// Commands that change attributes: `FS_IOC_SETFLAGS`, `FS_IOC32_SETFLAGS`, `FS_IOC_FSSETXATTR`, `FS_IOC_SETVERSION`,
/// `FS_IOC32_SETVERSION`, `EXT4_IOC_SETVERSION` and its 32-bit form, `FS_IOC_SET_ENCRYPTION_POLICY` and
/// `FS_IOC_ENABLE_VERITY` (include/uapi/linux/fs.h, fscrypt.h, fsverity.h, ext4.h). A generation is part of what a file is
/// known by.
const ATTR: [u32; 9] = [
    0x4008_6602,
    0x4004_6602,
    0x401c_5820,
    0x4008_7602,
    0x4004_7602,
    0x4008_6604,
    0x4004_6604,
    0x800c_6613,
    0x4080_6685,
];

/// Commands that change the content: `FICLONE`, `FICLONERANGE`; `FS_IOC_RESVSP`, `FS_IOC_UNRESVSP`, their 64-bit forms and
/// `FS_IOC_ZERO_RANGE`, each also as a 32-bit program of x86 has it; `EXT4_IOC_MOVE_EXT` and `EXT4_IOC_SWAP_BOOT`
/// (include/uapi/linux/fs.h, include/linux/falloc.h, include/uapi/linux/ext4.h). `FIDEDUPERANGE` only joins what is the same.
const WRITE: [u32; 14] = [
    0x4004_9409,
    0x4020_940d,
    0x4030_5828,
    0x4030_5829,
    0x4030_582a,
    0x4030_582b,
    0x4030_5839,
    0x402c_5828,
    0x402c_5829,
    0x402c_582a,
    0x402c_582b,
    0x402c_5839,
    0xc028_660f,
    0x6611,
];

/// The access that a command is; `None` for one that changes no file.
#[inline(always)]
#[must_use]
pub fn access(command: u32) -> Option<Access> {
    if ATTR.contains(&command) {
        Some(Access::ATTR)
    } else if WRITE.contains(&command) {
        Some(Access::WRITE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `_IOC` of include/uapi/asm-generic/ioctl.h
    fn command(direction: u32, kind: u8, number: u32, size: u32) -> u32 {
        direction << 30 | size << 16 | u32::from(kind) << 8 | number
    }

    #[test]
    fn the_numbers_are_those_of_the_headers() {
        const NONE: u32 = 0;
        const IN: u32 = 1;
        const OUT: u32 = 2;
        let attr = [
            (IN, b'f', 2, 8),
            (IN, b'f', 2, 4),
            (IN, b'X', 32, 28),
            (IN, b'v', 2, 8),
            (IN, b'v', 2, 4),
            (IN, b'f', 4, 8),
            (IN, b'f', 4, 4),
            (OUT, b'f', 19, 12),
            (IN, b'f', 133, 128),
        ];
        let reserve = [40, 41, 42, 43, 57];
        let write = [(IN, 0x94, 9, 4), (IN, 0x94, 13, 32), (IN | OUT, b'f', 15, 40), (NONE, b'f', 17, 0)];
        let write = write.into_iter().chain(reserve.map(|number| (IN, b'X', number, 48)));
        let write = write.chain(reserve.map(|number| (IN, b'X', number, 44)));
        let all = |(direction, kind, number, size)| command(direction, kind, number, size);
        assert_eq!(attr.map(all), ATTR);
        let mut found: std::vec::Vec<_> = write.map(all).collect();
        let mut known = WRITE.to_vec();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known);
    }

    #[test]
    fn reading_and_terminals_are_no_change() {
        // FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, FIDEDUPERANGE, FIONREAD, TCGETS, TIOCGWINSZ
        for command in [0x8008_6601, 0x801c_581f, 0xc018_9436, 0x541b, 0x5401, 0x5413] {
            assert_eq!(access(command), None);
        }
    }
}
