//! Field offsets from the running kernel's BTF.
//!
//! A reader of our own: aya keeps its parsed types to itself, the other crate that reads BTF is LGPL, and both hold the
//! whole of it in memory, which is more than the agent may use. This one keeps the raw bytes and an index, and is
//! dropped after the start. The format is described in the kernel's Documentation/bpf/btf.rst.

use std::path::{Path, PathBuf};

use monitor_common::{
    offsets::{MISSING, Offsets},
    security::{DentryArgs, Signatures},
};

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;

const MAGIC: u16 = 0xeb9f;
/// How deep anonymous members may be nested.
const MAX_NESTING: u32 = 8;

/// Why the kernel's types could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error(
        "{path}: {source}; this kernel shows no BTF, and without it no kernel program can be loaded: \
         boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The content is not BTF.
    #[error("{path}: not BTF: {what} at byte {offset}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: usize,
    },
}

/// A kernel's types.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Start of each type in `bytes`; type 0, void, has none.
    types: Vec<u32>,
    strings: usize,
}

/// One type's fixed part.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    count: usize,
    bitfields: bool,
    /// The type that a typedef or qualifier stands for; the size of a composite.
    target: u32,
    /// Where the members begin.
    body: usize,
}

impl Btf {
    /// Reads BTF from a file.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes = std::fs::read(path).map_err(|source| BtfError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(bytes).map_err(|(what, offset)| BtfError::Malformed { path: path.to_owned(), what, offset })
    }

    /// Indexes BTF of the machine's own byte order.
    fn parse(bytes: Vec<u8>) -> Result<Self, (&'static str, usize)> {
        let mut btf = Self { bytes, types: vec![0], strings: 0 };
        if btf.u16(0) != Some(MAGIC) {
            return Err(("no magic number of this byte order", 0));
        }
        let field = |at| btf.u32(at).map(|value| value as usize).ok_or(("the header ends early", at));
        let (header, types, types_len, strings) = (field(4)?, field(8)?, field(12)?, field(16)?);
        let (mut at, end) = (header + types, header + types + types_len);
        if end > btf.bytes.len() {
            return Err(("the type section ends early", end));
        }
        btf.strings = header + strings;
        while at < end {
            let ty = btf.type_at(at).ok_or(("a type ends early", at))?;
            let Some(size) = body_size(ty.kind, ty.count) else { return Err(("a type of unknown kind", at)) };
            btf.types.push(u32::try_from(at).map_err(|_| ("larger than 4 GiB", at))?);
            at = ty.body + size;
        }
        Ok(btf)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.u32(at + 4)?;
        Some(Type {
            name: self.u32(at)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            bitfields: info >> 31 != 0,
            target: self.u32(at + 8)?,
            body: at + 12,
        })
    }

    fn type_by_id(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.type_at(*self.types.get(id as usize)? as usize)
    }

    fn string(&self, offset: u32) -> &[u8] {
        let from = self.bytes.get(self.strings + offset as usize..).unwrap_or_default();
        from.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Follows typedefs and qualifiers to a struct or union.
    fn composite(&self, mut id: u32) -> Option<Type> {
        for _ in 0..32 {
            let ty = self.type_by_id(id)?;
            match ty.kind {
                KIND_STRUCT | KIND_UNION => return Some(ty),
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => id = ty.target,
                _ => return None,
            }
        }
        None
    }

    /// Byte offset and type of a member, looked up through anonymous structs and unions.
    fn member(&self, of: Type, name: &[u8], nesting: u32) -> Option<(u32, u32)> {
        for index in 0..of.count {
            let at = of.body + index * 12;
            let (member, id, raw) = (self.u32(at)?, self.u32(at + 4)?, self.u32(at + 8)?);
            let offset = if of.bitfields { raw & 0x00ff_ffff } else { raw } / 8;
            let found = self.string(member);
            if found == name {
                return Some((offset, id));
            }
            if found.is_empty()
                && nesting < MAX_NESTING
                && let Some(inner) = self.composite(id)
                && let Some((more, id)) = self.member(inner, name, nesting + 1)
            {
                return Some((offset + more, id));
            }
        }
        None
    }

    /// Byte offset of a member path such as `d_name.len` or `tasks[2].first` in a struct.
    fn path(&self, of: Type, path: &str) -> Option<u32> {
        let mut offset = 0;
        let mut inside = Some(of);
        for name in path.split('.') {
            let (name, index) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
                Some((name, index)) => (name, Some(index.parse::<u32>().ok()?)),
                None => (name, None),
            };
            let (more, mut id) = self.member(inside?, name.as_bytes(), 0)?;
            offset += more;
            if let Some(index) = index {
                let (element, size) = self.element(id)?;
                id = element;
                offset += index * size;
            }
            inside = self.composite(id);
        }
        Some(offset)
    }

    /// Type and size of the elements of an array of structs, unions or pointers.
    fn element(&self, array: u32) -> Option<(u32, u32)> {
        let array = self.type_by_id(array).filter(|ty| ty.kind == KIND_ARRAY)?;
        let id = self.u32(array.body)?;
        if self.type_by_id(id)?.kind == KIND_POINTER {
            return Some((id, u32::try_from(size_of::<usize>()).ok()?));
        }
        // Where a type that refers to another has that one, a composite has its size.
        Some((id, self.composite(id)?.target))
    }

    /// Byte offset of a member path in each struct of a list; alternatives in a path are parted by `|`.
    ///
    /// One pass over all types, whatever the number of questions.
    fn offsets(&self, questions: &[(&str, &str)]) -> Vec<Option<u32>> {
        let mut answers = vec![None; questions.len()];
        for &at in self.types.iter().skip(1) {
            let Some(ty) = self.type_at(at as usize).filter(|ty| ty.kind == KIND_STRUCT && ty.count > 0) else {
                continue;
            };
            let name = self.string(ty.name);
            if name.is_empty() {
                continue;
            }
            for (&(strct, path), answer) in questions.iter().zip(&mut answers) {
                if answer.is_none() && strct.as_bytes() == name {
                    *answer = path.split('|').find_map(|path| self.path(ty, path));
                }
            }
        }
        answers
    }

    /// Byte offset of one member path.
    #[must_use]
    pub fn offset(&self, strct: &str, path: &str) -> Option<u32> {
        self.offsets(&[(strct, path)]).pop().flatten()
    }

    /// Which argument of the hooks that moved is the dentry. A kernel without such a function has the default.
    #[must_use]
    pub fn signatures(&self) -> Signatures {
        let names = ["inode_setattr", "inode_setxattr", "inode_removexattr"];
        let places = |prefix: &str| {
            let [setattr, setxattr, removexattr] =
                names.map(|name| self.argument(&format!("{prefix}{name}"), "dentry").unwrap_or(0));
            DentryArgs { setattr, setxattr, removexattr }
        };
        Signatures { lsm: places("bpf_lsm_"), function: places("security_") }
    }

    /// Whether the first argument of a tracepoint is a pointer to a struct of this name. Its type is that of a probe, whose
    /// first argument is its own.
    #[must_use]
    pub fn has_argument(&self, tracepoint: &str, strct: &str) -> bool {
        let probe = self.named(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}"));
        let pointer = probe.and_then(|probe| self.type_by_id(probe.target)).filter(|ty| ty.kind == KIND_POINTER);
        pointer.and_then(|pointer| self.place(pointer.target, strct)) == Some(1)
    }

    /// The place of a function's first argument that points to a struct of this name.
    fn argument(&self, function: &str, strct: &str) -> Option<u32> {
        self.place(self.named(KIND_FUNC, function)?.target, strct)
    }

    /// The first type of this kind and name.
    fn named(&self, kind: u32, name: &str) -> Option<Type> {
        self.types.iter().skip(1).find_map(|&at| {
            let ty = self.type_at(at as usize)?;
            (ty.kind == kind && self.string(ty.name) == name.as_bytes()).then_some(ty)
        })
    }

    /// The place of the first argument that points to a struct of this name, in the prototype with this number.
    fn place(&self, proto: u32, strct: &str) -> Option<u32> {
        let proto = self.type_by_id(proto).filter(|ty| ty.kind == KIND_FUNC_PROTO)?;
        let place = (0..proto.count).find(|index| {
            let pointer = self.u32(proto.body + index * 8 + 4).and_then(|id| self.type_by_id(id));
            let target = pointer.filter(|ty| ty.kind == KIND_POINTER).and_then(|ty| self.composite(ty.target));
            target.is_some_and(|ty| self.string(ty.name) == strct.as_bytes())
        })?;
        u32::try_from(place).ok()
    }

    /// Everything that the kernel programs read, and the fields that this kernel lacks.
    #[must_use]
    pub fn resolve(&self) -> (Offsets, Vec<String>) {
        let questions: Vec<_> = Offsets::FIELDS.iter().map(|&(_, strct, path)| (strct, path)).collect();
        let mut offsets = Offsets::NONE;
        let mut missing = Vec::new();
        for (index, answer) in self.offsets(&questions).into_iter().enumerate() {
            offsets.set(index, answer.unwrap_or(MISSING));
            if answer.is_none() {
                missing.push(format!("{}.{}", questions[index].0, questions[index].1));
            }
        }
        (offsets, missing)
    }
}

/// Bytes after the fixed part of a type, by kind; `None` for a kind that is not known.
fn body_size(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        KIND_POINTER | 7..=12 | 16 | 18 => 0,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
        6 | 13 => 8 * count,
        _ => return None,
    })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
mod tests {
    use super::*;

    /// A kernel's BTF in small: `struct outer { int a; union { struct { int b; char c; }; long d; }; struct inner e; struct inner
    /// rows[2]; struct inner *links[2]; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0d\0inner\0e\0f\0rows\0links\0";
        let name = |of: &[u8]| {
            strings.windows(of.len() + 1).position(|window| &window[..of.len()] == of && window[of.len()] == 0).unwrap()
                as u32
        };
        let mut types: Vec<u32> = vec![name(b"int"), 1 << 24, 4, 32];
        let composite = |kind: u32, named: u32, size: u32, members: &[(u32, u32, u32)]| {
            let mut words = vec![named, kind << 24 | members.len() as u32, size];
            words.extend(members.iter().flat_map(|&(name, id, bits)| [name, id, bits]));
            words
        };
        types.extend(composite(KIND_STRUCT, 0, 8, &[(name(b"b"), 1, 0), (name(b"c"), 1, 32)])); // 2
        types.extend(composite(KIND_UNION, 0, 8, &[(0, 2, 0), (name(b"d"), 1, 0)])); // 3
        types.extend(composite(KIND_STRUCT, name(b"inner"), 8, &[(name(b"f"), 1, 32)])); // 4
        types.extend(composite(
            KIND_STRUCT,
            name(b"outer"),
            24,
            &[(name(b"a"), 1, 0), (0, 3, 64), (name(b"e"), 4, 128), (name(b"rows"), 6, 192), (name(b"links"), 8, 320)],
        )); // 5
        types.extend([0, KIND_ARRAY << 24, 0, 4, 1, 2]); // 6: two of inner
        types.extend([0, KIND_POINTER << 24, 4]); // 7
        types.extend([0, KIND_ARRAY << 24, 0, 7, 1, 2]); // 8: two pointers
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = Vec::from(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "c"), Some(12));
        assert_eq!(btf.offset("outer", "d"), Some(8));
        assert_eq!(btf.offset("outer", "e.f"), Some(20));
    }

    #[test]
    fn elements_are_found_by_their_size() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "rows[1].f"), Some(24 + 8 + 4));
        assert_eq!(btf.offset("outer", "links[1]"), Some(40 + 8));
        assert_eq!(btf.offset("outer", "a[1]"), None);
        assert_eq!(btf.offset("outer", "rows[x]"), None);
    }

    #[test]
    fn what_is_not_there_is_missing() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "z"), None);
        assert_eq!(btf.offset("outer", "a.b"), None);
        assert_eq!(btf.offset("missing", "a"), None);
        assert_eq!(btf.offset("outer", "z|e.f"), Some(20));
    }

    #[test]
    fn a_cut_file_is_refused_and_never_read_past_its_end() {
        let whole = sample();
        for len in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..len].to_vec()) {
                let _ = btf.resolve();
            }
        }
        assert!(Btf::parse(whole[..40].to_vec()).is_err());
    }

    #[test]
    fn the_running_kernel_has_every_field_that_the_programs_need() {
        let (offsets, missing) = Btf::read(Path::new(VMLINUX)).unwrap().resolve();
        assert!(missing.is_empty(), "{missing:?}");
        assert_ne!(offsets.file_inode, MISSING);
    }

    #[test]
    fn the_running_kernel_tells_of_the_requests_of_io_uring() {
        let btf = Btf::read(Path::new(VMLINUX)).unwrap();
        assert!(btf.has_argument("io_uring_submit_req", "io_kiocb"));
        assert!(!btf.has_argument("io_uring_submit_req", "file"));
        assert!(!btf.has_argument("sys_enter", "io_kiocb"));
        assert!(!btf.has_argument("nothing", "io_kiocb"));
    }
}
