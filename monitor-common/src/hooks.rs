//! The table of the kernel's security hooks.
//!
//! Each hook is one kernel function, called `function` below, which the LSM list knows as `lsm`
//! (`include/linux/lsm_hook_defs.h`). One body serves every flavour of program; userspace attaches for each hook the
//! best flavour that the running kernel calls.
//!
//! To add a hook, add a row to [`security_hooks!`](crate::security_hooks!), write its body in `monitor-ebpf`, and, if the row
//! is `provable`, add the operation that reaches it to `exercise` in `monitor/src/kernel/security.rs`. Programs, their names
//! and every list below come from the row.

use crate::{event::Hook, verdict::Sensor};

/// The rows, handed to the macro that is named.
///
/// A row holds, in this order:
/// * `lsm`: the name in the LSM list, and the names of its arguments on current kernels;
/// * `function`: the kernel function for fentry and kprobe (and for any flavour that attaches to functions), and the names
///   of its arguments, which differ from the list's for some hooks;
/// * `since`: the kernel version that has the hook;
/// * `provable`: whether the guard reaches the hook by a harmless operation of its own;
/// * `replaces`: the operations that the tracepoints need not judge once every hook that replaces them runs;
/// * `traced`: whether the tracepoints see the operation where no other flavour serves the hook;
/// * `denies`: what the guard reports as deniable only if this hook denies;
/// * `programs`: the names of the programs, one for each of [`FLAVOURS`], which the kernel shows as well;
/// * `body`: the function below `monitor-ebpf/src/hooks/security/` that judges.
#[macro_export]
macro_rules! security_hooks {
    ($then:ident) => {
        $then! {
            /// A file is opened.
            FileOpen {
                lsm: "file_open" ["file"],
                function: "security_file_open" ["file"],
                since: (5, 10),
                provable: true,
                replaces: [Open, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_file_open, fentry_file_open, kprobe_file_open],
                body: file::open,
            }
            /// A file is read or written through a descriptor.
            FilePermission {
                lsm: "file_permission" ["file", "mask"],
                function: "security_file_permission" ["file", "mask"],
                since: (5, 10),
                provable: true,
                replaces: [Write, WriteTotals, Truncate, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_file_permission, fentry_file_permission, kprobe_file_permission],
                body: file::permission,
            }
            /// A file is mapped.
            MmapFile {
                lsm: "mmap_file" ["file", "reqprot", "prot", "flags"],
                function: "security_mmap_file" ["file", "prot", "flags"],
                since: (5, 10),
                provable: true,
                replaces: [Mmap],
                traced: true,
                denies: [Files],
                programs: [lsm_mmap_file, fentry_mmap_file, kprobe_mmap_file],
                body: file::mmap,
            }
            /// The protection of a mapping changes.
            FileMprotect {
                lsm: "file_mprotect" ["vma", "reqprot", "prot"],
                function: "security_file_mprotect" ["vma", "reqprot", "prot"],
                since: (5, 10),
                provable: true,
                replaces: [Mmap],
                traced: true,
                denies: [Files],
                programs: [lsm_file_mprotect, fentry_file_mprotect, kprobe_file_mprotect],
                body: file::mprotect,
            }
            /// An open creates a file.
            InodeCreate {
                lsm: "inode_create" ["dir", "dentry", "mode"],
                function: "security_inode_create" ["dir", "dentry", "mode"],
                since: (5, 10),
                provable: true,
                replaces: [Open, Mknod, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_create, fentry_inode_create, kprobe_inode_create],
                body: inode::create,
            }
            /// A hard link is created.
            InodeLink {
                lsm: "inode_link" ["old_dentry", "dir", "new_dentry"],
                function: "security_inode_link" ["old_dentry", "dir", "new_dentry"],
                since: (5, 10),
                provable: true,
                replaces: [Link, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_link, fentry_inode_link, kprobe_inode_link],
                body: inode::link,
            }
            /// A name is removed.
            InodeUnlink {
                lsm: "inode_unlink" ["dir", "dentry"],
                function: "security_inode_unlink" ["dir", "dentry"],
                since: (5, 10),
                provable: true,
                replaces: [Unlink, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_unlink, fentry_inode_unlink, kprobe_inode_unlink],
                body: inode::unlink,
            }
            /// A symbolic link is created.
            InodeSymlink {
                lsm: "inode_symlink" ["dir", "dentry", "old_name"],
                function: "security_inode_symlink" ["dir", "dentry", "old_name"],
                since: (5, 10),
                provable: true,
                replaces: [Symlink, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_symlink, fentry_inode_symlink, kprobe_inode_symlink],
                body: inode::symlink,
            }
            /// A directory is created.
            InodeMkdir {
                lsm: "inode_mkdir" ["dir", "dentry", "mode"],
                function: "security_inode_mkdir" ["dir", "dentry", "mode"],
                since: (5, 10),
                provable: true,
                replaces: [Mkdir, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_mkdir, fentry_inode_mkdir, kprobe_inode_mkdir],
                body: inode::mkdir,
            }
            /// A directory is removed.
            InodeRmdir {
                lsm: "inode_rmdir" ["dir", "dentry"],
                function: "security_inode_rmdir" ["dir", "dentry"],
                since: (5, 10),
                provable: true,
                replaces: [Rmdir],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_rmdir, fentry_inode_rmdir, kprobe_inode_rmdir],
                body: inode::rmdir,
            }
            /// A device, FIFO or socket is created.
            InodeMknod {
                lsm: "inode_mknod" ["dir", "dentry", "mode", "dev"],
                function: "security_inode_mknod" ["dir", "dentry", "mode", "dev"],
                since: (5, 10),
                provable: true,
                replaces: [Mknod, Bind],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_mknod, fentry_inode_mknod, kprobe_inode_mknod],
                body: inode::mknod,
            }
            /// A name is moved.
            InodeRename {
                lsm: "inode_rename" ["old_dir", "old_dentry", "new_dir", "new_dentry"],
                function: "security_inode_rename" ["old_dir", "old_dentry", "new_dir", "new_dentry", "flags"],
                since: (5, 10),
                provable: true,
                replaces: [Rename, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_rename, fentry_inode_rename, kprobe_inode_rename],
                body: inode::rename,
            }
            /// Mode, owner, size or times change. The dentry is the first argument before idmapped mounts, see
            /// [`Signatures`](crate::security::Signatures).
            InodeSetattr {
                lsm: "inode_setattr" ["idmap", "dentry", "attr"],
                function: "security_inode_setattr" ["idmap", "dentry", "attr"],
                since: (5, 10),
                provable: true,
                replaces: [Truncate, Chmod, Chown, Utimes, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_setattr, fentry_inode_setattr, kprobe_inode_setattr],
                body: inode::setattr,
            }
            /// An extended attribute is set. The dentry is the first argument before idmapped mounts, see
            /// [`Signatures`](crate::security::Signatures).
            InodeSetxattr {
                lsm: "inode_setxattr" ["idmap", "dentry", "name", "value", "size", "flags"],
                function: "security_inode_setxattr" ["idmap", "dentry", "name", "value", "size", "flags"],
                since: (5, 10),
                provable: true,
                replaces: [Xattr, IoUring],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_setxattr, fentry_inode_setxattr, kprobe_inode_setxattr],
                body: inode::setxattr,
            }
            /// An extended attribute is removed. The dentry is the first argument before idmapped mounts, see
            /// [`Signatures`](crate::security::Signatures).
            InodeRemovexattr {
                lsm: "inode_removexattr" ["idmap", "dentry", "name"],
                function: "security_inode_removexattr" ["idmap", "dentry", "name"],
                since: (5, 10),
                provable: true,
                replaces: [Xattr],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_removexattr, fentry_inode_removexattr, kprobe_inode_removexattr],
                body: inode::removexattr,
            }
            /// An access control list is set. Before 6.2, access control lists are set by `inode_setxattr`. Not
            /// provable: not every file system stores such lists.
            InodeSetAcl {
                lsm: "inode_set_acl" ["idmap", "dentry", "acl_name", "kacl"],
                function: "security_inode_set_acl" ["idmap", "dentry", "acl_name", "kacl"],
                since: (6, 2),
                provable: false,
                replaces: [],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_set_acl, fentry_inode_set_acl, kprobe_inode_set_acl],
                body: inode::change_acl,
            }
            /// An access control list is removed. Before 6.2, access control lists are removed by
            /// `inode_removexattr`. Not provable: not every file system stores such lists.
            InodeRemoveAcl {
                lsm: "inode_remove_acl" ["idmap", "dentry", "acl_name"],
                function: "security_inode_remove_acl" ["idmap", "dentry", "acl_name"],
                since: (6, 2),
                provable: false,
                replaces: [],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_remove_acl, fentry_inode_remove_acl, kprobe_inode_remove_acl],
                body: inode::change_acl,
            }
            /// The flags of a file change. `file_setattr(2)` is as young as the hook. Not provable: not every
            /// file system has such flags.
            InodeFileSetattr {
                lsm: "inode_file_setattr" ["dentry", "fa"],
                function: "security_inode_file_setattr" ["dentry", "fa"],
                since: (6, 17),
                provable: false,
                replaces: [FileAttr],
                traced: true,
                denies: [Files],
                programs: [lsm_inode_file_setattr, fentry_inode_file_setattr, kprobe_inode_file_setattr],
                body: inode::file_setattr,
            }
            /// An `ioctl` on an open file.
            FileIoctl {
                lsm: "file_ioctl" ["file", "cmd", "arg"],
                function: "security_file_ioctl" ["file", "cmd", "arg"],
                since: (5, 10),
                provable: true,
                replaces: [Ioctl],
                traced: true,
                denies: [Files],
                programs: [lsm_file_ioctl, fentry_file_ioctl, kprobe_file_ioctl],
                body: file::ioctl,
            }
            /// An `ioctl` of a 32-bit program. Commands of 32-bit programs; before 6.8 they reach `file_ioctl`.
            /// Not provable: the guard is no 32-bit program.
            FileIoctlCompat {
                lsm: "file_ioctl_compat" ["file", "cmd", "arg"],
                function: "security_file_ioctl_compat" ["file", "cmd", "arg"],
                since: (6, 8),
                provable: false,
                replaces: [],
                traced: true,
                denies: [Files],
                programs: [lsm_file_ioctl_compat, fentry_file_ioctl_compat, kprobe_file_ioctl_compat],
                body: file::ioctl,
            }
            /// A program is about to be executed.
            BprmCheck {
                lsm: "bprm_check_security" ["bprm"],
                function: "security_bprm_check" ["bprm"],
                since: (5, 10),
                provable: false,
                replaces: [],
                traced: true,
                denies: [Exec],
                programs: [lsm_bprm_check, fentry_bprm_check, kprobe_bprm_check],
                body: program::check,
            }
            /// A UNIX stream socket is connected.
            UnixStreamConnect {
                lsm: "unix_stream_connect" ["sock", "other", "newsk"],
                function: "security_unix_stream_connect" ["sock", "other", "newsk"],
                since: (5, 10),
                provable: true,
                replaces: [UnixConnect],
                traced: true,
                denies: [],
                programs: [lsm_unix_stream_connect, fentry_unix_stream_connect, kprobe_unix_stream_connect],
                body: socket::connect,
            }
            /// A datagram is sent to a UNIX socket.
            UnixMaySend {
                lsm: "unix_may_send" ["sock", "other"],
                function: "security_unix_may_send" ["sock", "other"],
                since: (5, 10),
                provable: true,
                replaces: [UnixConnect],
                traced: false,
                denies: [],
                programs: [lsm_unix_may_send, fentry_unix_may_send, kprobe_unix_may_send],
                body: socket::send,
            }
            /// A signal is sent.
            TaskKill {
                lsm: "task_kill" ["p", "info", "sig", "cred"],
                function: "security_task_kill" ["p", "info", "sig", "cred"],
                since: (5, 10),
                provable: true,
                replaces: [Signal],
                traced: true,
                denies: [System],
                programs: [lsm_task_kill, fentry_task_kill, kprobe_task_kill],
                body: process::signal,
            }
            /// An `fcntl` on an open file, which may set an owner for signals.
            FileFcntl {
                lsm: "file_fcntl" ["file", "cmd", "arg"],
                function: "security_file_fcntl" ["file", "cmd", "arg"],
                since: (5, 10),
                provable: true,
                replaces: [Signal],
                traced: true,
                denies: [Files, System],
                programs: [lsm_file_fcntl, fentry_file_fcntl, kprobe_file_fcntl],
                body: process::own,
            }
            /// The owner of a descriptor is signalled.
            FileSendSigiotask {
                lsm: "file_send_sigiotask" ["tsk", "fown", "sig"],
                function: "security_file_send_sigiotask" ["tsk", "fown", "sig"],
                since: (5, 10),
                provable: false,
                replaces: [],
                traced: false,
                denies: [Files],
                programs: [lsm_send_sigiotask, fentry_send_sigiotask, kprobe_send_sigiotask],
                body: process::own_signal,
            }
            /// A resource limit of a process is set.
            TaskSetrlimit {
                lsm: "task_setrlimit" ["p", "resource", "new_rlim"],
                function: "security_task_setrlimit" ["p", "resource", "new_rlim"],
                since: (5, 10),
                provable: false,
                replaces: [Ptrace],
                traced: true,
                denies: [System],
                programs: [lsm_task_setrlimit, fentry_task_setrlimit, kprobe_task_setrlimit],
                body: process::hold_back,
            }
            /// The priority of a process is set.
            TaskSetnice {
                lsm: "task_setnice" ["p", "nice"],
                function: "security_task_setnice" ["p", "nice"],
                since: (5, 10),
                provable: false,
                replaces: [Ptrace],
                traced: true,
                denies: [],
                programs: [lsm_task_setnice, fentry_task_setnice, kprobe_task_setnice],
                body: process::hold_back,
            }
            /// The scheduling policy of a process is set.
            TaskSetscheduler {
                lsm: "task_setscheduler" ["p"],
                function: "security_task_setscheduler" ["p"],
                since: (5, 10),
                provable: false,
                replaces: [Ptrace],
                traced: true,
                denies: [],
                programs: [lsm_task_setscheduler, fentry_task_setscheduler, kprobe_task_setscheduler],
                body: process::hold_back,
            }
            /// A process is traced.
            PtraceAccessCheck {
                lsm: "ptrace_access_check" ["child", "mode"],
                function: "security_ptrace_access_check" ["child", "mode"],
                since: (5, 10),
                provable: false,
                replaces: [Ptrace],
                traced: true,
                denies: [System],
                programs: [lsm_ptrace_access, fentry_ptrace_access, kprobe_ptrace_access],
                body: process::trace,
            }
            /// A descriptor is received from another process.
            FileReceive {
                lsm: "file_receive" ["file"],
                function: "security_file_receive" ["file"],
                since: (5, 10),
                provable: true,
                replaces: [],
                traced: false,
                denies: [Files],
                programs: [lsm_file_receive, fentry_file_receive, kprobe_file_receive],
                body: file::receive,
            }
            /// A file system is mounted.
            SbMount {
                lsm: "sb_mount" ["dev_name", "path", "type", "flags", "data"],
                function: "security_sb_mount" ["dev_name", "path", "type", "flags", "data"],
                since: (5, 10),
                provable: false,
                replaces: [Mount],
                traced: true,
                denies: [System],
                programs: [lsm_sb_mount, fentry_sb_mount, kprobe_sb_mount],
                body: system::mount,
            }
            /// A file system is unmounted.
            SbUmount {
                lsm: "sb_umount" ["mnt", "flags"],
                function: "security_sb_umount" ["mnt", "flags"],
                since: (5, 10),
                provable: false,
                replaces: [Unmount],
                traced: true,
                denies: [],
                programs: [lsm_sb_umount, fentry_sb_umount, kprobe_sb_umount],
                body: system::unmount,
            }
            /// A mount is moved.
            MoveMount {
                lsm: "move_mount" ["from_path", "to_path"],
                function: "security_move_mount" ["from_path", "to_path"],
                since: (5, 10),
                provable: false,
                replaces: [Mount],
                traced: true,
                denies: [],
                programs: [lsm_move_mount, fentry_move_mount, kprobe_move_mount],
                body: system::move_mount,
            }
            /// A mount becomes the root.
            SbPivotroot {
                lsm: "sb_pivotroot" ["old_path", "new_path"],
                function: "security_sb_pivotroot" ["old_path", "new_path"],
                since: (5, 10),
                provable: false,
                replaces: [Mount],
                traced: true,
                denies: [],
                programs: [lsm_sb_pivotroot, fentry_sb_pivotroot, kprobe_sb_pivotroot],
                body: system::pivot_root,
            }
            /// A user namespace is created.
            UsernsCreate {
                lsm: "userns_create" ["cred"],
                function: "security_create_user_ns" ["cred"],
                since: (6, 1),
                provable: false,
                replaces: [],
                traced: true,
                denies: [],
                programs: [lsm_userns_create, fentry_userns_create, kprobe_userns_create],
                body: system::user_namespace,
            }
            /// A `bpf` command.
            Bpf {
                lsm: "bpf" ["cmd", "attr", "size"],
                function: "security_bpf" ["cmd", "attr", "size"],
                since: (5, 10),
                provable: true,
                replaces: [Bpf],
                traced: true,
                denies: [System],
                programs: [lsm_bpf, fentry_bpf, kprobe_bpf],
                body: system::bpf,
            }
            /// The kernel requests a module by name.
            KernelModuleRequest {
                lsm: "kernel_module_request" ["kmod_name"],
                function: "security_kernel_module_request" ["kmod_name"],
                since: (5, 10),
                provable: false,
                replaces: [],
                traced: false,
                denies: [],
                programs: [lsm_module_request, fentry_module_request, kprobe_module_request],
                body: system::module_request,
            }
            /// The kernel reads a module, firmware or kernel from a file.
            KernelReadFile {
                lsm: "kernel_read_file" ["file", "id", "contents"],
                function: "security_kernel_read_file" ["file", "id", "contents"],
                since: (5, 10),
                provable: false,
                replaces: [Module],
                traced: true,
                denies: [Files, System],
                programs: [lsm_kernel_read_file, fentry_kernel_read_file, kprobe_kernel_read_file],
                body: system::module,
            }
            /// The kernel loads such data from memory.
            KernelLoadData {
                lsm: "kernel_load_data" ["id", "contents"],
                function: "security_kernel_load_data" ["id", "contents"],
                since: (5, 10),
                provable: false,
                replaces: [Module],
                traced: true,
                denies: [],
                programs: [lsm_kernel_load_data, fentry_kernel_load_data, kprobe_kernel_load_data],
                body: system::module,
            }
            /// A driver command by `io_uring`.
            UringCmd {
                lsm: "uring_cmd" ["ioucmd"],
                function: "security_uring_cmd" ["ioucmd"],
                since: (6, 0),
                provable: false,
                replaces: [],
                traced: true,
                denies: [],
                programs: [lsm_uring_cmd, fentry_uring_cmd, kprobe_uring_cmd],
                body: system::uring_command,
            }
            /// The uids of a process change.
            TaskFixSetuid {
                lsm: "task_fix_setuid" ["new", "old", "flags"],
                function: "security_task_fix_setuid" ["new", "old", "flags"],
                since: (5, 10),
                provable: false,
                replaces: [Privilege],
                traced: true,
                denies: [System],
                programs: [lsm_task_fix_setuid, fentry_task_fix_setuid, kprobe_task_fix_setuid],
                body: credentials::change,
            }
            /// The capabilities of a process change.
            Capset {
                lsm: "capset" ["new", "old", "effective", "inheritable", "permitted"],
                function: "security_capset" ["new", "old", "effective", "inheritable", "permitted"],
                since: (5, 10),
                provable: false,
                replaces: [Privilege],
                traced: true,
                denies: [System],
                programs: [lsm_capset, fentry_capset, kprobe_capset],
                body: credentials::change_capabilities,
            }
            /// A program gains credentials from its file.
            BprmCredsFromFile {
                lsm: "bprm_creds_from_file" ["bprm", "file"],
                function: "security_bprm_creds_from_file" ["bprm", "file"],
                since: (5, 10),
                provable: false,
                replaces: [Privilege],
                traced: true,
                denies: [Files, System],
                programs: [lsm_bprm_creds, fentry_bprm_creds, kprobe_bprm_creds],
                body: credentials::program,
            }
            /// A socket is created.
            SocketCreate {
                lsm: "socket_create" ["family", "type", "protocol", "kern"],
                function: "security_socket_create" ["family", "type", "protocol", "kern"],
                since: (5, 10),
                provable: true,
                replaces: [Socket],
                traced: true,
                denies: [System],
                programs: [lsm_socket_create, fentry_socket_create, kprobe_socket_create],
                body: socket::create,
            }
            /// A socket is bound.
            SocketBind {
                lsm: "socket_bind" ["sock", "address", "addrlen"],
                function: "security_socket_bind" ["sock", "address", "addrlen"],
                since: (5, 10),
                provable: true,
                replaces: [Bind],
                traced: true,
                denies: [],
                programs: [lsm_socket_bind, fentry_socket_bind, kprobe_socket_bind],
                body: socket::bind,
            }
            /// A socket is connected.
            SocketConnect {
                lsm: "socket_connect" ["sock", "address", "addrlen"],
                function: "security_socket_connect" ["sock", "address", "addrlen"],
                since: (5, 10),
                provable: true,
                replaces: [],
                traced: false,
                denies: [],
                programs: [lsm_socket_connect, fentry_socket_connect, kprobe_socket_connect],
                body: socket::connect_any,
            }
            /// A socket starts to listen.
            SocketListen {
                lsm: "socket_listen" ["sock", "backlog"],
                function: "security_socket_listen" ["sock", "backlog"],
                since: (5, 10),
                provable: true,
                replaces: [Listen],
                traced: true,
                denies: [],
                programs: [lsm_socket_listen, fentry_socket_listen, kprobe_socket_listen],
                body: socket::listen,
            }
        }
    };
}

/// What a kernel can deny as a whole, see [`HookSpec::denies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deniable {
    /// Accesses to files.
    Files,
    /// Execution of programs.
    Exec,
    /// Everything else but Internet traffic.
    System,
}

/// A row of the table.
#[derive(Debug)]
pub struct HookSpec {
    /// The hook.
    pub hook: SecurityHook,
    /// Its name in the kernel's LSM list.
    pub lsm: &'static str,
    /// Its arguments as LSM programs get them.
    pub lsm_args: &'static [&'static str],
    /// The kernel function.
    pub function: &'static str,
    /// The arguments of that function.
    pub function_args: &'static [&'static str],
    /// The first kernel that has the hook, as major and minor version.
    pub since: (u8, u8),
    /// Whether the guard can reach the hook by a harmless operation of its own.
    pub provable: bool,
    /// The operations that the tracepoints need not judge once every hook that replaces them runs.
    pub replaces: &'static [Hook],
    /// Whether the tracepoints see the operation.
    pub traced: bool,
    /// What can be denied only if this hook denies.
    pub denies: &'static [Deniable],
    /// Names of the programs, in the order of [`FLAVOURS`].
    programs: [&'static str; FLAVOURS.len()],
}

/// The oldest kernel that is supported.
pub const OLDEST_KERNEL: (u8, u8) = (5, 10);

/// The sensors that attach to security hooks, the best first.
pub const FLAVOURS: [Sensor; 3] = [Sensor::Lsm, Sensor::Fentry, Sensor::Kprobe];

/// Declares [`SecurityHook`] and the rows as values.
macro_rules! declare {
    ($($(#[$doc:meta])* $hook:ident {
        lsm: $lsm:literal [$($lsm_arg:literal),*],
        function: $function:literal [$($function_arg:literal),*],
        since: ($major:literal, $minor:literal),
        provable: $provable:literal,
        replaces: [$($replaced:ident),*],
        traced: $traced:literal,
        denies: [$($denied:ident),*],
        programs: [$($program:ident),*],
        body: $family:ident::$body:ident,
    })+) => {
        /// A security hook; the number is its index in the table and in the map of proofs.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum SecurityHook { $($(#[$doc])* $hook),+ }

        /// Every hook, by its number. The first is attached first: a kernel that refuses it refuses the flavour.
        pub const HOOKS: &[HookSpec] = &[$(HookSpec {
            hook: SecurityHook::$hook,
            lsm: $lsm,
            lsm_args: &[$($lsm_arg),*],
            function: $function,
            function_args: &[$($function_arg),*],
            since: ($major, $minor),
            provable: $provable,
            replaces: &[$(Hook::$replaced),*],
            traced: $traced,
            denies: &[$(Deniable::$denied),*],
            programs: [$(stringify!($program)),*],
        }),+];
    };
}

security_hooks!(declare);

impl SecurityHook {
    /// The number of hooks.
    pub const COUNT: usize = HOOKS.len();

    /// All hooks with their names in the kernel's LSM list.
    pub const NAMES: &'static [(&'static str, Self)] = &{
        let mut names = [("", HOOKS[0].hook); Self::COUNT];
        let mut index = 0;
        while index < Self::COUNT {
            names[index] = (HOOKS[index].lsm, HOOKS[index].hook);
            index += 1;
        }
        names
    };

    /// The hook's row.
    #[must_use]
    pub const fn spec(self) -> &'static HookSpec {
        &HOOKS[self as usize]
    }

    /// The name in the kernel's LSM list.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.spec().lsm
    }
}

impl HookSpec {
    /// The name of the hook's program of a flavour; `None` for a sensor that does not attach to security hooks.
    #[must_use]
    pub fn program(&self, flavour: Sensor) -> Option<&'static str> {
        let at = FLAVOURS.iter().position(|sensor| *sensor == flavour)?;
        self.programs.get(at).copied()
    }

    /// The names of all programs of the hook.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().copied()
    }

    /// Whether some supported kernels lack the hook. There the operation reaches another hook, or does not exist.
    #[must_use]
    pub const fn is_optional(&self) -> bool {
        let ((major, minor), (oldest_major, oldest_minor)) = (self.since, OLDEST_KERNEL);
        major > oldest_major || (major == oldest_major && minor > oldest_minor)
    }
}
