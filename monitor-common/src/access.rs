//! The kinds of access that a file rule can name.

/// A set of accesses to one file, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// No access at all, for example an `O_PATH` open.
    pub const NONE: Self = Self(0);
    /// The content is read.
    pub const READ: Self = Self(1);
    /// The content is changed: an open for writing, a write, a truncation, a writable mapping.
    pub const WRITE: Self = Self(1 << 1);
    /// The name comes to be: a file, a directory, a link, a rename onto it.
    pub const CREATE: Self = Self(1 << 2);
    /// The name goes away by unlink or rmdir.
    pub const DELETE: Self = Self(1 << 3);
    /// The name is moved, or another file is moved over it.
    pub const RENAME: Self = Self(1 << 4);
    /// The file gets a second name: a hard link, or a symbolic link that points to it.
    pub const LINK: Self = Self(1 << 5);
    /// Mode, owner, times or extended attributes are changed.
    pub const ATTR: Self = Self(1 << 6);
    /// The file is executed.
    pub const EXEC: Self = Self(1 << 7);
    /// The accesses that change a file or its name.
    pub const CHANGES: Self =
        Self::WRITE.union(Self::CREATE).union(Self::DELETE).union(Self::RENAME).union(Self::LINK).union(Self::ATTR);
    /// Every access.
    pub const ALL: Self = Self(0xff);

    /// How many kinds there are, the length of a [`crate::policy::RuleSet`].
    pub const COUNT: usize = 8;

    /// The kinds in bit order, with the names that policies and journals use.
    pub const NAMES: [(&'static str, Self); Self::COUNT] = [
        ("read", Self::READ),
        ("write", Self::WRITE),
        ("create", Self::CREATE),
        ("delete", Self::DELETE),
        ("rename", Self::RENAME),
        ("link", Self::LINK),
        ("attr", Self::ATTR),
        ("exec", Self::EXEC),
    ];

    /// A set from its bits.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits of the set.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets together.
    #[inline(always)]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when every access of `other` is in this set.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when the set is empty.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The access with this name in a policy.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, access)| access)
    }

    /// The names of the accesses in the set, in bit order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |&(_, access)| self.contains(access)).map(|(name, _)| name)
    }
}
