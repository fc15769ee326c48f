"""Locks the calling process down: rlimits, no_new_privs, Landlock, seccomp.

Layers, outermost last to be set:

- rlimits bound CPU time, address space, file size and open files;
- Landlock lets files below named folders be read, and nothing be written;
- seccomp lets only the calls of `ALLOWED_CALLS` through, everything else answers EPERM: no sockets,
  no new processes, no signals to others.

Covered: reading and writing files, the network, other processes, time and memory. Not covered:
kernel faults, and `stat` on a path the process already knows (Landlock does not see it).
Without seccomp nothing is started (`ResourceError`). Without Landlock (before Linux 5.13) files
cannot be told apart: opening is then refused altogether, unless the worker must load libraries.

This module needs the standard library and pyseccomp only; workers import it in isolated mode.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moss.errors import ResourceError

if TYPE_CHECKING:
    import pyseccomp

_PR_SET_NO_NEW_PRIVS: Final = 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_ACCESS_EXECUTE, _ACCESS_READ_FILE, _ACCESS_READ_DIR = 1 << 0, 1 << 2, 1 << 3
_ACCESS_BITS_BY_ABI: Final = {1: 13, 2: 14, 3: 15}
"""Number of file access rights that each Landlock ABI knows; 16 from ABI 5 on."""
_CLONE_THREAD: Final = 0x00010000
_HARMLESS_FCNTL: Final = (
    fcntl.F_GETFD,
    fcntl.F_SETFD,
    fcntl.F_GETFL,
    fcntl.F_SETFL,
    fcntl.F_DUPFD,
    fcntl.F_DUPFD_CLOEXEC,
)
"""Without F_SETOWN and F_SETSIG, through which a process could signal others."""

_CALL_GROUPS: Final = (
    "read readv pread64 write writev close fstat newfstatat stat lstat statx lseek getdents64",
    "access faccessat faccessat2 readlink readlinkat getcwd dup dup2 dup3 pipe2",
    "mmap mprotect munmap mremap madvise brk futex sched_yield sched_getaffinity membarrier",
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall",
    "exit exit_group getpid gettid getppid getuid geteuid getgid getegid uname sysinfo",
    "getrandom clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrusage",
    "times poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2",
    "getrlimit arch_prctl set_robust_list set_tid_address rseq",
)
ALLOWED_CALLS: Final = tuple(name for group in _CALL_GROUPS for name in group.split())


@dataclass(frozen=True, slots=True)
class Lockdown:
    """What a locked-down process may still do."""

    cpu_s: int
    memory_bytes: int
    """Address space, libraries included."""
    readable: tuple[str, ...] = ()
    """Folders or files that may be read, and run when `may_exec`."""
    max_open_files: int = 64
    may_exec: bool = False
    """Whether it is about to exec a worker; the exec'd file must be below `readable`."""
    may_thread: bool = False


def require_seccomp() -> None:
    """Check that sandboxed workers can be started on this machine.

    Raises:
        ResourceError: libseccomp or kernel seccomp is missing; the message says which.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise ResourceError(
            f"sandboxed tools need libseccomp and pyseccomp, which cannot be loaded ({error}); "
            "install the Debian package libseccomp2 and the Python package pyseccomp, or leave "
            "calculator and equation_solver out of tools.enabled"
        ) from error
    if not pyseccomp.__name__ or not os.path.exists("/proc/sys/kernel/seccomp"):
        raise ResourceError(
            "sandboxed tools need a kernel with seccomp filters, and /proc/sys/kernel/seccomp is "
            "missing; leave calculator and equation_solver out of tools.enabled"
        )


def landlock_abi() -> int:
    """Landlock ABI of the kernel; 0 where there is none."""
    abi = _libc().syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    return max(int(abi), 0)


def lock_down(lockdown: Lockdown) -> None:
    """Apply every layer to this process, for good.

    Raises:
        ResourceError: a layer could not be set; the caller must not go on to untrusted work.
    """
    _set_limits(lockdown)
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ResourceError(f"no_new_privs was refused: {os.strerror(ctypes.get_errno())}")
    abi = landlock_abi()
    # Built first: Landlock would hide pyseccomp's own file.
    call_filter = _build_filter(lockdown, may_open=abi > 0 or lockdown.may_exec)
    if abi:
        _restrict_files(lockdown, abi)
    else:
        logging.getLogger(__name__).warning("Landlock is missing: files are guarded by seccomp")
    try:
        call_filter.load()
    except OSError as error:
        raise ResourceError(f"seccomp filter refused: {error}") from error


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _set_limits(lockdown: Lockdown) -> None:
    limits = {
        resource.RLIMIT_CPU: lockdown.cpu_s,
        resource.RLIMIT_AS: lockdown.memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: lockdown.max_open_files,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def _restrict_files(lockdown: Lockdown, abi: int) -> None:
    """Handle every file access right the kernel knows, then allow reading below `readable`."""
    libc = _libc()
    handled = (1 << _ACCESS_BITS_BY_ABI.get(abi, 15 if abi < 5 else 16)) - 1
    ruleset_fd = libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(handled)), ctypes.c_size_t(8), 0
    )
    if ruleset_fd < 0:
        raise ResourceError(f"Landlock ruleset refused: {os.strerror(ctypes.get_errno())}")
    for path in lockdown.readable:
        if os.path.exists(path):
            _allow_reading(libc, ruleset_fd, path, may_exec=lockdown.may_exec)
    if libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset_fd, 0) != 0:
        raise ResourceError(f"Landlock was refused: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset_fd)


def _allow_reading(libc: ctypes.CDLL, ruleset_fd: int, path: str, *, may_exec: bool) -> None:
    access = _ACCESS_READ_FILE | (_ACCESS_EXECUTE if may_exec else 0)
    if os.path.isdir(path):
        access |= _ACCESS_READ_DIR
    path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    # struct landlock_path_beneath_attr is packed: 8 bytes of rights, 4 bytes of descriptor.
    rule = access.to_bytes(8, "little") + path_fd.to_bytes(4, "little")
    failed = libc.syscall(_LANDLOCK_ADD_RULE, ruleset_fd, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
    os.close(path_fd)
    if failed:
        raise ResourceError(f"Landlock rule for {path} refused: {os.strerror(ctypes.get_errno())}")


def _build_filter(lockdown: Lockdown, *, may_open: bool) -> pyseccomp.SyscallFilter:
    import pyseccomp as seccomp

    call_filter = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in _known_calls(seccomp, ALLOWED_CALLS):
        call_filter.add_rule(seccomp.ALLOW, name)
    # Reading one's own limits is harmless, setting others' is not; tgkill serves abort() only.
    call_filter.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(2, seccomp.EQ, 0))
    call_filter.add_rule(seccomp.ALLOW, "tgkill", seccomp.Arg(0, seccomp.EQ, os.getpid()))
    # glibc falls back to clone, whose flags a filter can read.
    call_filter.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for command in _HARMLESS_FCNTL:
        call_filter.add_rule(seccomp.ALLOW, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    if may_open:
        writing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
        read_only = seccomp.Arg(2, seccomp.MASKED_EQ, writing, os.O_RDONLY)
        call_filter.add_rule(seccomp.ALLOW, "openat", read_only)
    if lockdown.may_thread:
        threads_only = seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
        call_filter.add_rule(seccomp.ALLOW, "clone", threads_only)
    if lockdown.may_exec:
        call_filter.add_rule(seccomp.ALLOW, "execve")
    return call_filter


def _known_calls(seccomp: object, names: Sequence[str]) -> list[str]:
    """Names that this architecture has; `stat` and others are x86 only."""
    resolve = seccomp.resolve_syscall  # type: ignore[attr-defined]
    native = seccomp.Arch.NATIVE  # type: ignore[attr-defined]
    return [name for name in names if resolve(native, name) >= 0]
