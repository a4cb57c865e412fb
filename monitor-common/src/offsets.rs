//! Where the running kernel keeps what the programs read.
//!
//! Rust emits no CO-RE relocations, so userspace looks each field up in the kernel's BTF at start and hands the
//! offsets in as one constant.

use crate::shared;

/// The kernel has no such field.
pub const MISSING: u32 = u32::MAX;

/// Declares [`Offsets`] together with the table that says where each field is found.
macro_rules! offsets {
    ($size:literal; $($(#[$doc:meta])* $field:ident = $strct:literal . $path:literal),+ $(,)?) => {
        /// Byte offsets; [`MISSING`] where this kernel has no such field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets { $($(#[$doc])* #[doc = concat!("`", $strct, ".", $path, "`")] pub $field: u32),+ }

        impl Offsets {
            /// Every field missing.
            pub const NONE: Self = Self { $($field: MISSING),+ };

            /// Name of each field, the struct and the member path in which BTF knows it; alternatives are parted by `|`.
            pub const FIELDS: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($field), $strct, $path)),+];

            /// Sets a field by its place in [`Offsets::FIELDS`]; false past the end.
            pub fn set(&mut self, index: usize, offset: u32) -> bool {
                let fields: &mut [&mut u32] = &mut [$(&mut self.$field),+];
                fields.get_mut(index).map(|field| **field = offset).is_some()
            }
        }

        shared!(Offsets = $size);
    };
}

offsets! { 516;
    task_tgid = "task_struct"."tgid",
    task_pid = "task_struct"."pid",
    task_parent = "task_struct"."real_parent",
    task_leader = "task_struct"."group_leader",
    task_comm = "task_struct"."comm",
    task_files = "task_struct"."files",
    task_fs = "task_struct"."fs",
    task_mm = "task_struct"."mm",
    task_cred = "task_struct"."cred",
    task_flags = "task_struct"."flags",
    task_start = "task_struct"."start_boottime|real_start_time",
    task_loginuid = "task_struct"."loginuid",
    task_signal = "task_struct"."signal",
    task_cgroups = "task_struct"."cgroups",
    task_thread_pid = "task_struct"."thread_pid",
    /// The places of `PIDTYPE_PID` and `PIDTYPE_PGID`, here and in the lists of a `struct pid`.
    task_pid_link = "task_struct"."pid_links[0]",
    task_group_link = "task_struct"."pid_links[2]",
    /// `TS_COMPAT` on x86
    task_ti_status = "task_struct"."thread_info.status",
    /// `TIF_32BIT` on arm64
    task_ti_flags = "task_struct"."thread_info.flags",
    signal_live = "signal_struct"."live",
    signal_group = "signal_struct"."pids[2]",
    pid_task = "pid"."tasks[0].first",
    pid_group = "pid"."tasks[2].first",
    pid_level = "pid"."level",
    pid_number = "pid"."numbers[0].nr",
    pid_namespace = "pid"."numbers[0].ns",
    pid_namespace_below = "pid"."numbers[1].ns",
    link_next = "hlist_node"."next",
    namespace_pids = "pid_namespace"."idr.idr_rt.xa_head",
    node_shift = "xa_node"."shift",
    node_slots = "xa_node"."slots",
    node_slots_end = "xa_node"."tags|marks",
    css_set_dfl_cgroup = "css_set"."dfl_cgrp",
    cgroup_kernfs_node = "cgroup"."kn",
    cgroup_parent_css = "cgroup"."self.parent",
    cgroup_self = "cgroup"."self",
    css_cgroup = "cgroup_subsys_state"."cgroup",
    kernfs_id = "kernfs_node"."id",
    cred_uid = "cred"."uid",
    cred_gid = "cred"."gid",
    cred_euid = "cred"."euid",
    cred_caps = "cred"."cap_effective",
    mm_arg_start = "mm_struct"."arg_start",
    mm_arg_end = "mm_struct"."arg_end",
    mm_exe = "mm_struct"."exe_file",
    fs_pwd = "fs_struct"."pwd",
    fs_root = "fs_struct"."root",
    files_fdt = "files_struct"."fdt",
    fdt_max = "fdtable"."max_fds",
    fdt_fd = "fdtable"."fd",
    file_inode = "file"."f_inode",
    file_path = "file"."f_path",
    file_mode = "file"."f_mode",
    file_flags = "file"."f_flags",
    file_private = "file"."private_data",
    path_mnt = "path"."mnt",
    path_dentry = "path"."dentry",
    dentry_parent = "dentry"."d_parent",
    dentry_inode = "dentry"."d_inode",
    dentry_name = "dentry"."d_name.name",
    dentry_len = "dentry"."d_name.len",
    dentry_name_hash = "dentry"."d_name.hash",
    dentry_hash = "dentry"."d_hash.pprev",
    dentry_alias = "dentry"."d_u.d_alias|d_alias",
    inode_ino = "inode"."i_ino",
    inode_dentries = "inode"."i_dentry.first",
    inode_sb = "inode"."i_sb",
    inode_generation = "inode"."i_generation",
    inode_mode = "inode"."i_mode",
    inode_nlink = "inode"."i_nlink",
    inode_uid = "inode"."i_uid",
    inode_gid = "inode"."i_gid",
    inode_rdev = "inode"."i_rdev",
    inode_size = "inode"."i_size",
    inode_private = "inode"."i_private",
    inode_flags = "inode"."i_flags",
    sb_dev = "super_block"."s_dev",
    mount_mnt = "mount"."mnt",
    mount_root = "mount"."mnt.mnt_root",
    mount_parent = "mount"."mnt_parent",
    mount_mountpoint = "mount"."mnt_mountpoint",
    socket_sk = "socket"."sk",
    sock_family = "sock"."__sk_common.skc_family",
    sock_dport = "sock"."__sk_common.skc_dport",
    sock_num = "sock"."__sk_common.skc_num",
    sock_daddr = "sock"."__sk_common.skc_daddr",
    sock_v6_daddr = "sock"."__sk_common.skc_v6_daddr",
    sock_own_addr = "sock"."__sk_common.skc_rcv_saddr",
    sock_v6_own_addr = "sock"."__sk_common.skc_v6_rcv_saddr",
    sock_type = "sock"."sk_type",
    sock_protocol = "sock"."sk_protocol",
    unix_peer = "unix_sock"."peer",
    unix_path = "unix_sock"."path",
    sock_common = "sock"."__sk_common",
    uring_opcode = "io_kiocb"."opcode",
    uring_fd = "io_kiocb"."cqe.fd",
    uring_command = "io_kiocb"."cmd",
    uring_open_name = "io_open"."filename",
    uring_open_dir = "io_open"."dfd",
    uring_open_flags = "io_open"."how.flags",
    uring_unlink_name = "io_unlink"."filename",
    uring_unlink_dir = "io_unlink"."dfd",
    uring_rename_old = "io_rename"."oldpath",
    uring_rename_old_dir = "io_rename"."old_dfd",
    uring_rename_new = "io_rename"."newpath",
    uring_rename_new_dir = "io_rename"."new_dfd",
    uring_link_old = "io_link"."oldpath",
    uring_link_old_dir = "io_link"."old_dfd",
    uring_link_new = "io_link"."newpath",
    uring_link_new_dir = "io_link"."new_dfd",
    uring_mkdir_name = "io_mkdir"."filename",
    uring_mkdir_dir = "io_mkdir"."dfd",
    uring_flags = "io_kiocb"."flags",
    uring_xattr_name = "io_xattr"."filename",
    uring_connect_address = "io_connect"."addr",
    filename_name = "filename"."name",
    dentry_sb = "dentry"."d_sb",
    mount_sb = "mount"."mnt.mnt_sb",
    bprm_file = "linux_binprm"."file",
    bprm_buf = "linux_binprm"."buf",
    bprm_filename = "linux_binprm"."filename",
    bprm_interp = "linux_binprm"."interp",
    bprm_cred = "linux_binprm"."cred",
    iattr_valid = "iattr"."ia_valid",
    vma_file = "vm_area_struct"."vm_file",
    vma_flags = "vm_area_struct"."vm_flags|__vm_flags",
    sock_net = "sock"."__sk_common.skc_net.net",
    net_user_namespace = "net"."user_ns",
    user_namespace_level = "user_namespace"."level",
}

/// Where the arguments of system calls and functions are in `struct pt_regs`, and how to tell a 32-bit caller.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abi {
    /// The arguments at entry.
    pub args: [u32; 6],
    /// The arguments of a 32-bit caller at entry.
    pub compat_args: [u32; 6],
    /// The first argument at exit: arm64 puts the result where it was.
    pub first_at_exit: u32,
    /// The same of a 32-bit caller.
    pub compat_first_at_exit: u32,
    /// The number, at exit.
    pub number: u32,
    /// The arguments of a function of the kernel.
    pub function_args: [u32; 4],
    /// Offset in `task_struct` of the word that tells a 32-bit caller.
    pub compat_word: u32,
    /// The bits of that word that are set for one; 0 when the kernel has no 32-bit calls.
    pub compat_mask: u32,
}

impl Abi {
    /// Nothing known.
    pub const NONE: Self = Self {
        args: [MISSING; 6],
        compat_args: [MISSING; 6],
        first_at_exit: MISSING,
        compat_first_at_exit: MISSING,
        number: MISSING,
        function_args: [MISSING; 4],
        compat_word: MISSING,
        compat_mask: 0,
    };
}

shared!(Abi = 84);
