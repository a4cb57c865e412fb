//! The processors that machines are emulated with.

use std::fmt;

use flowwarden_tests::tools::Step;

/// A processor's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// That of the machine at hand.
    pub(crate) const OWN: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Node.js's name.
    pub(crate) fn node(self) -> &'static str {
        match self {
            Self::Amd64 => "x64",
            Self::Arm64 => "arm64",
        }
    }

    /// Emulates it.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// What needs [`Self::emulator`], in the table of programs.
    pub(crate) fn step(self) -> Step {
        if self == Self::OWN { Step::Vm } else { Step::Foreign }
    }

    /// The emulated board, and its processor unless a kernel asks for another.
    pub(crate) fn board(self) -> (&'static str, &'static str) {
        match self {
            // An interrupt right after an emulated `cmpxchg16b` finds the flags overwritten, and the kernel dies at once or,
            // one boot in many, somewhere else. Without the instruction kernels take another way.
            Self::Amd64 => ("q35,hpet=off", "max,cx16=off"),
            Self::Arm64 => ("virt", "cortex-a72"),
        }
    }

    /// More for the kernel's command line.
    pub(crate) fn parameters(self) -> &'static str {
        match self {
            // The kernel panics when a timer has not ticked ten times while it counts to some number: on a busy machine an
            // emulated one does not.
            Self::Amd64 => "no_timer_check",
            Self::Arm64 => "",
        }
    }

    /// The kernel's name of the first serial port.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.debian())
    }
}
